"""Second floor: saving and loading of models and replay buffers."""

import inspect
import json
import pathlib
import warnings
import zipfile
import zlib
from collections import deque
from collections.abc import Iterable
from typing import Any, Self

import torch as th
from stable_baselines3.common.buffers import NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.save_util import load_from_zip_file, open_path
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.dqn.dqn import DQN

from sb3_rainbow.arguments import known_device, switch, whole_number
from sb3_rainbow.buffers import RainbowReplayBuffer, end_trajectories
from sb3_rainbow.checking import NETWORK_SWITCHES, CheckingDQN, constructor_arguments
from sb3_rainbow.files import PathOrFile, written_beside

_TARGET_PREFIX = "q_net_target."
_MARK_OF_OURS = "prioritized_replay_beta"  # in every file of RainbowDQN, and in none of another algorithm
_BEGIN_A_NEW_ONE = "pass replay_buffer=None to load(), which begins a new one"


class SavingDQN(CheckingDQN):
    """DQN whose files are written beside and renamed, and checked when they are read."""

    _play_only = False

    def save(
        self,
        path: PathOrFile,
        exclude: Iterable[str] | None = None,
        include: Iterable[str] | None = None,
        play_only: bool = False,
    ) -> None:
        """
        Save the model in a zip-file. A crash while saving leaves an older file as it was.

        :param path: file to write; ".zip" is appended where it has no suffix
        :param exclude: names of attributes that should not be saved, besides the default ones
        :param include: names of attributes that should be saved although they are not by default
        :param play_only: save what ``load`` needs for ``predict`` alone, a quarter of the size: no target network and
            no optimizer state. Trained again, it starts with a copy of the online one, and a new optimizer
        """
        play_only = switch("play_only", play_only)
        if play_only:
            exclude = [*(exclude or []), "_last_obs", "_last_original_obs", "_last_episode_starts", "ep_info_buffer"]
        self._write_back()  # the replay buffer may be among what is to be included
        self._play_only = play_only
        try:
            with written_beside(path, "zip") as file:
                super().save(file, exclude, include)
        finally:
            self._play_only = False

    def get_parameters(self) -> dict[str, dict]:
        """
        :return: state dicts by the names of their objects
        """
        parameters = super().get_parameters()
        if self._play_only:
            weights = parameters["policy"].items()
            return {"policy": {name: value for name, value in weights if not name.startswith(_TARGET_PREFIX)}}
        return parameters

    def set_parameters(
        self, load_path_or_dict: str | dict[str, Any], exact_match: bool = True, device: th.device | str = "auto"
    ) -> None:
        """
        Load state dicts; see SB3's ``BaseAlgorithm``. Those of a file that was saved with ``play_only=True`` are enough
        for ``exact_match``: the target network gets the same weights then, and the optimizer starts afresh.

        :param load_path_or_dict: a saved model, or what ``get_parameters`` returned
        :param exact_match: raise an error when a parameter is missing or unknown
        :param device: device of the parameters
        :raises ValueError: on a name that is missing or unknown
        :raises RuntimeError: when weights are missing, unknown or of another shape
        """
        if isinstance(load_path_or_dict, dict):
            parameters: dict[str, Any] = load_path_or_dict
        else:
            parameters = load_from_zip_file(load_path_or_dict, device=device, load_data=False)[1]
        online = {name for name in self.policy.state_dict() if not name.startswith(_TARGET_PREFIX)}
        is_play_only = parameters.keys() == {"policy"} and parameters["policy"].keys() == online
        if exact_match and is_play_only:
            weights: dict[str, th.Tensor] = parameters["policy"]
            target = {name.replace("q_net.", _TARGET_PREFIX, 1): value for name, value in weights.items()}
            optimizer = self.policy.optimizer.state_dict() | {"state": {}}
            parameters = {"policy": weights | target, "policy.optimizer": optimizer}
        super().set_parameters(parameters, exact_match, device)

    @classmethod
    def load(
        cls,
        path: PathOrFile,
        env: GymEnv | None = None,
        device: th.device | str = "auto",
        custom_objects: dict[str, Any] | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> Self:
        """
        Load the model from a zip-file; see SB3's ``BaseAlgorithm.load`` for the other arguments.

        :param path: the file, or a file object
        :param env: the environment to go on with; None: the model may predict, and get one later
        :param device: on which the model runs
        :param custom_objects: what takes the place of what the file has, by name
        :return: a new model
        :raises FileNotFoundError: when there is none
        :raises ValueError: when the file is damaged, or another algorithm's, or of a network with other switches, or
            has a replay buffer in it that was made with other ones: pass ``replay_buffer=None`` to begin a new one
        """
        saved = _checked_data(path)
        others = custom_objects | kwargs if isinstance(custom_objects, dict) else kwargs
        try:
            model = super().load(path, env, known_device(device), custom_objects, *args, **kwargs)
        except RuntimeError as error:
            given = [f"{name}={others[name]}" for name in NETWORK_SWITCHES if name in others]
            if not given or "state_dict" not in str(error):
                raise
            raise ValueError(
                f"{' and '.join(given)} would need other weights than those in {path}: load it as it was saved, or "
                "train a new model"
            ) from error
        load = inspect.signature(DQN.load).parameters
        bare = vars(DQN("MlpPolicy", None, _init_setup_model=False))  # type: ignore[arg-type]  # a file may leave some out
        known = {*load, *constructor_arguments(cls), *saved, *bare, *model._excluded_save_params(), *dir(cls)}
        unknown = [f"{name}={value!r}" for name, value in kwargs.items() if name not in known]
        if unknown:
            warnings.warn(
                f"load() sets {' and '.join(unknown)}, which nothing of {cls.__name__} is called: is it misspelt? What "
                "policy_kwargs have, such as v_min, is the file's",
                stacklevel=2,
            )
        if "stats_window_size" in kwargs:  # which SB3 keeps under another name
            size = whole_number("stats_window_size", kwargs["stats_window_size"], 1, 10**12)
            model._stats_window_size = size
            for name in ("ep_info_buffer", "ep_success_buffer"):  # with which a model goes on
                if getattr(model, name) is not None:
                    setattr(model, name, deque(getattr(model, name), maxlen=size))
        if "train_freq" in others:
            model._require_one_env_for_episodes()
        if "replay_buffer_class" in others:
            model._warn_of_idle_switches()
        return model

    def save_replay_buffer(self, path: PathOrFile) -> None:
        """
        Save the replay buffer as a pickle file. A crash while saving leaves an older file as it was.

        :param path: file to write; ".pkl" is appended where it has no suffix
        """
        self._write_back()
        with written_beside(path, "pkl") as file:
            super().save_replay_buffer(file)

    def load_replay_buffer(self, path: PathOrFile, truncate_last_traj: bool = True) -> None:
        """
        Load a replay buffer from a pickle file. Until it has been read, the model's own stays in memory as well. Its
        capacity is the file's, its n_steps and gamma become those of the model's own buffer, if that has them.

        :param path: the file
        :param truncate_last_traj: the env does not go on where the buffer ends: no n-step window runs across
        :raises FileNotFoundError: when there is none
        :raises ValueError: when the file holds no replay buffer, or one that does not fit; the model then keeps its own
        """
        before = self.replay_buffer
        try:
            super().load_replay_buffer(path, truncate_last_traj)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"there is no replay buffer at {path}: save one with model.save_replay_buffer(path), or with "
                "train.py --save-replay-buffer"
            ) from error
        except (OSError, MemoryError):
            raise
        except AssertionError as error:  # SB3's own words on what is missing
            raise ValueError(f"{path} holds no replay buffer that can be used here: {error}") from error
        except Exception as error:  # unpickling another file may raise anything
            raise ValueError(f"{path} is truncated, or holds no replay buffer ({error!r})") from error
        finally:
            loaded, self.replay_buffer = self.replay_buffer, before
        assert loaded is not None
        spaces_and_envs = {
            "observation space": (loaded.observation_space, self.observation_space),
            "action space": (loaded.action_space, self.action_space),
            "number of envs": (loaded.n_envs, self.n_envs),
        }
        remedy = "load it into a model like the one that it was saved with, or move the file away and go on without it"
        _require_equal(f"the replay buffer in {path}", spaces_and_envs | self._priority_arguments(loaded), remedy)
        with_windows = RainbowReplayBuffer | NStepReplayBuffer
        if isinstance(before, with_windows) and isinstance(loaded, with_windows):
            # This model's, not those of the model that the buffer was saved with
            loaded.n_steps, loaded.gamma = before.n_steps, before.gamma
        self.replay_buffer = loaded
        if truncate_last_traj:
            end_trajectories(loaded)
        if type(loaded) is not self.replay_buffer_class:
            self._warn_of_idle_switches()

    def _priority_arguments(self, loaded: ReplayBuffer) -> dict[str, tuple[Any, Any]]:
        """
        :param loaded: to take the place of the model's replay buffer
        :return: what the priorities of both depend on, by name
        """
        if not isinstance(loaded, RainbowReplayBuffer):
            return {}
        own: dict[str, Any] = {name: getattr(self, name) for name in ("prioritized_replay", "prioritized_replay_alpha")}
        if isinstance(self.replay_buffer, RainbowReplayBuffer):  # a user's class may not leave it to the model
            own |= self.replay_buffer.fixed_arguments
        return {name: (value, own[name]) for name, value in loaded.fixed_arguments.items()}

    def _take_back(self, saved: RainbowReplayBuffer) -> None:
        """
        :param saved: replay buffer that was saved with the model, in place of the one that has been made since
        :raises ValueError: when ``load`` was given other switches than those that it was made with
        """
        remedy = f"leave that argument out, or {_BEGIN_A_NEW_ONE}"
        _require_equal("the replay buffer that was saved with the model", self._priority_arguments(saved), remedy)
        self.replay_buffer = saved

    def learn(self, *args: Any, **kwargs: Any) -> Self:
        buffer = self.replay_buffer
        if isinstance(buffer, RainbowReplayBuffer):  # that was saved with the model, which may play with other envs
            _require_equal("the replay buffer", {"number of envs": (buffer.n_envs, self.n_envs)}, _BEGIN_A_NEW_ONE)
        return super().learn(*args, **kwargs)

    def _write_back(self) -> None:
        """Give the replay buffer what is kept elsewhere, before somebody reads it: see ``CapturingDQN``."""

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_play_only"]


def _require_equal(what: str, pairs: dict[str, tuple[Any, Any]], remedy: str) -> None:
    for name, (theirs, ours) in pairs.items():
        if theirs != ours:
            raise ValueError(f"{what} has the {name} {theirs}, but this model has {ours}: {remedy}")


def _checked_data(path: PathOrFile) -> dict[str, Any]:
    """
    :param path: what ``load`` was given
    :return: what SB3 has written of each attribute that was saved
    :raises ValueError: when it is no zip file, a truncated one, or one that another algorithm or program wrote
    """
    file = open_path(path, "r", suffix="zip")
    try:
        with zipfile.ZipFile(file) as archive:
            damaged = archive.testzip()
            if damaged is not None:
                raise ValueError(f"{path} is damaged: {damaged} in it cannot be read; use another copy of the file")
            names = archive.namelist()
            data = json.loads(archive.read("data")) if "data" in names and "policy.pth" in names else {}
    except (zipfile.BadZipFile, zlib.error, EOFError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is truncated, or no saved model at all ({error}); use another file") from error
    finally:
        if isinstance(path, str | pathlib.Path):
            file.close()
        else:
            file.seek(0)
    if "policy_class" in data and _MARK_OF_OURS not in data:
        policy = data["policy_class"].get("__module__", "elsewhere")
        raise ValueError(
            f"{path} was not saved by RainbowDQN but by an algorithm with a policy from {policy}: load it with that one"
        )
    if _MARK_OF_OURS not in data:
        raise ValueError(f"{path} is truncated, or was not saved by RainbowDQN; use another file")
    return data
