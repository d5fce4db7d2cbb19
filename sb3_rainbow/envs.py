"""First floor: ALE's own vector environment, which plays and preprocesses in C++ threads, as an SB3 VecEnv."""

import importlib.util
import operator
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.monitor import Monitor, ResultsWriter
from stable_baselines3.common.vec_env import DummyVecEnv, VecCheckNan, VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvStepReturn

from sb3_rainbow.arguments import instance_of, number, switch, whole_number

try:
    import ale_py
    from ale_py.vector_env import AtariVectorEnv
except ImportError as error:
    error.add_note("Atari games come with the extra atari: in a clone, pip install '.[atari]'")
    raise

gym.register_envs(ale_py)

# AtariEnv's arguments that the vector environment lacks or names otherwise, and the values that a game's may have
_ALLOWED = {"frameskip": (1,), "obs_type": (None, "rgb", "grayscale"), "mode": (None,), "difficulty": (None,)}
_ALLOWED |= {"continuous": (None, False), "sound_obs": (None, False), "max_episode_steps": (None,)}
_LARGEST = 2**31 - 1  # of ALE's whole numbers
_MONITOR = f"{Monitor.__module__}:{Monitor.__name__}"


class AleVecEnv(VecEnv):
    """
    Games of one kind, as SB3's ``AtariWrapper`` and ``VecFrameStack`` present them, played by ``AtariVectorEnv``.

    Observations are stacks of gray frames, (frame_stack, screen_size, screen_size) uint8, the newest last. Infos hold
    ``Monitor``'s statistics of whole games: the score as the game counts it, and the length in emulator frames.
    docs/envs.md says where frames and resets differ from those of ``AtariWrapper``.

    :param env_id: name of the game without frame skip, such as "PongNoFrameskip-v4", or its spec
    :param n_envs: number of games
    :param noop_max: a game begins with fewer no-ops than this, their number drawn at random
    :param frame_skip: emulator frames per env step
    :param screen_size: height and width of a frame
    :param terminal_on_life_loss: a lost life ends the episode, but not the game, nor its score
    :param clip_reward: the agent gets the sign of the reward
    :param action_repeat_probability: that an emulator frame repeats the last action; 0: as the game's name has it, 0.25
        for "PongNoFrameskip-v0", say
    :param frame_stack: frames in an observation
    :param num_threads: 0: as many as there are games, but not more than processors
    :param exact_gray: make frames gray as SB3 does, after the brighter of two is taken: slower
    :param results_writer: for the statistics of each game
    :raises ValueError: on another kind of environment, or an argument out of range
    """

    def __init__(
        self,
        env_id: str | EnvSpec,
        n_envs: int = 1,
        noop_max: int = 30,
        frame_skip: int = 4,
        screen_size: int = 84,
        terminal_on_life_loss: bool = True,
        clip_reward: bool = True,
        action_repeat_probability: float = 0.0,
        frame_stack: int = 4,
        num_threads: int = 0,
        exact_gray: bool = False,
        results_writer: ResultsWriter | None = None,
    ) -> None:
        self.spec = _spec_of(env_id)
        settings = self.spec.kwargs
        sticky = number("action_repeat_probability", action_repeat_probability, 0, 1)
        size = whole_number("screen_size", screen_size, 1, 4096)
        frame_stack = whole_number("frame_stack", frame_stack, 1, 4096)
        self.clip_reward = switch("clip_reward", clip_reward)
        self._is_exact = switch("exact_gray", exact_gray)
        if self._is_exact and importlib.util.find_spec("cv2") is None:
            raise ValueError("exact_gray=True needs OpenCV: pip install opencv-python-headless, or leave it out")
        self._ale: Any = AtariVectorEnv(
            settings["game"],
            whole_number("n_envs", n_envs, 1, 65_536),
            num_threads=whole_number("num_threads", num_threads, 0, _LARGEST),
            max_num_frames_per_episode=settings.get("max_num_frames_per_episode") or _LARGEST,
            repeat_action_probability=sticky or settings.get("repeat_action_probability", 0.25),
            full_action_space=settings.get("full_action_space", False),
            autoreset_mode=AutoresetMode.SAME_STEP,
            img_height=size,
            img_width=size,
            grayscale=not self._is_exact,
            stack_num=1 if self._is_exact else frame_stack,
            frameskip=whole_number("frame_skip", frame_skip, 1, _LARGEST),
            noop_max=whole_number("noop_max", noop_max, 0, _LARGEST),
            # Not episodic_life, which would begin the whole game anew; clipped here, after the score is counted
            life_loss_info=switch("terminal_on_life_loss", terminal_on_life_loss),
            reward_clipping=False,
        )
        instance_of("results_writer", results_writer, ResultsWriter | None, "SB3's ResultsWriter")
        self.results_writer = results_writer
        self.t_start = time.time()
        attributes = {"render_mode": "rgb_array", "spec": self.spec, "metadata": {"render_modes": ["rgb_array"]}}
        observation_space = spaces.Box(0, 255, (frame_stack, size, size), np.uint8)
        attributes |= {"observation_space": observation_space, "action_space": self._ale.single_action_space}
        self._attributes: list[dict[str, Any]] = [dict(attributes) for _ in range(self._ale.num_envs)]
        super().__init__(self._ale.num_envs, observation_space, self._ale.single_action_space)
        # If no others are set: emulators that are made in the same moment would draw the same sticky actions
        self._seeds = np.random.SeedSequence().generate_state(self.num_envs).tolist()
        self._scores = np.zeros(self.num_envs)
        self._lives = self._starts = np.zeros(self.num_envs, dtype=np.int64)
        self._starting_frames: np.ndarray | None = None  # some games are begun by actions, of which only ALE counts
        self._has_games = False
        self._obs = np.zeros((self.num_envs, frame_stack, size, size), dtype=np.uint8)
        self._is_stepping = False
        self._received: list[Any] = []  # what came back of a step, until it is looked at

    def reset(self) -> np.ndarray:
        """
        Begin all games anew.

        :return: (n_envs, frame_stack, screen_size, screen_size), frames before the game's first one are zero
        :raises RuntimeError: after ``close()``
        """
        self._finish_step()
        self._has_games = False  # whoever is interrupted has to call reset() again
        # ALE takes 31 bits, and -1 for no seed
        seeds = np.array([-1 if seed is None else seed % 2**31 for seed in self._seeds])
        obs, info = self._ale.reset(seed=seeds)
        self._obs = self._stacked(obs, np.ones(self.num_envs, dtype=bool))
        self.reset_infos = [{"lives": lives} for lives in info["lives"].tolist()]
        self._reset_seeds()
        self._reset_options()
        self._scores[:] = 0
        self._lives, self._starts = info["lives"], _first_frames(info)
        if self._starting_frames is None:
            self._starting_frames = self._starts  # the emulator's first games
        self._has_games = True
        return self._own_obs()

    def step_async(self, actions: np.ndarray) -> None:
        """
        :param actions: (n_envs,) or (n_envs, 1) integers
        :raises ValueError: on anything else, which would stop ALE's threads for good
        :raises RuntimeError: before ``reset()`` has been called, or when it was interrupted, and after ``close()``
        """
        actions = np.asarray(actions)
        n_actions = int(self.action_space.n)  # type: ignore[attr-defined]
        fits = np.issubdtype(actions.dtype, np.integer) and actions.shape in ((self.num_envs,), (self.num_envs, 1))
        if not (fits and 0 <= actions.min() <= actions.max() < n_actions):
            raise ValueError(
                f"actions={actions!r} must be {self.num_envs} integers of 0 to {n_actions - 1}, one for each game"
            )
        self._finish_step()
        if not self._has_games:
            raise RuntimeError("there is no game to step yet: call reset() first")
        send, strengths = self._ale.ale.send, np.ones(self.num_envs, dtype=np.float32)  # of paddles, in other games
        actions = actions.astype(np.int64).reshape(self.num_envs)
        # An interruption comes when what is called has returned. That is C++: ALE's own send() might not get so far
        self._is_stepping = True
        send(actions, strengths)

    def _finish_step(self) -> None:
        """Wait for a step that nobody has waited for, such as one that was interrupted."""
        if self._ale is None:
            raise RuntimeError("these games were closed: make new ones")
        if self._is_stepping:
            self.step_wait()

    def step_wait(self) -> VecEnvStepReturn:
        """
        :return: observations (n_envs, frame_stack, screen_size, screen_size), rewards (n_envs,), dones (n_envs,), infos
        :raises RuntimeError: when there is nothing to wait for
        """
        if not self._is_stepping:
            raise RuntimeError("step_wait() has nothing to wait for: call step_async() first")
        if not self._received:
            # In C++ up to where the list has it, so that an interruption, which Python sees after that, loses nothing
            self._received.extend(map(operator.call, (self._ale.ale.recv,)))
        obs, rewards, terminated, truncated, info = self._received[0]
        scores = self._scores + rewards
        starts, dones = _first_frames(info), terminated | truncated
        is_over = dones & (starts != self._starts)  # the game, not only a life: what is reported is of the next one
        last_obs = self._stacked(info["final_obs"], np.zeros_like(is_over)) if is_over.any() else None
        obs = self._stacked(obs, is_over)
        lives = np.where(is_over, np.where(terminated, 0, self._lives), info["lives"])
        infos = [
            {"lives": lives, "TimeLimit.truncated": is_truncated}
            for lives, is_truncated in zip(lives.tolist(), (truncated & ~terminated).tolist(), strict=True)
        ]
        for env in np.flatnonzero(dones).tolist():
            # ALE's final observation is that of an earlier game where only a life was lost
            infos[env]["terminal_observation"] = last_obs[env] if is_over[env] else obs[env].copy()  # type: ignore[index]
        for env in np.flatnonzero(is_over).tolist():
            n_frames = starts[env] - self._starts[env] - self._starting_frames[env]  # type: ignore[index]
            # Those of Monitor below AtariWrapper: length in emulator frames, no-ops included
            seconds = round(time.time() - self.t_start, 6)
            infos[env]["episode"] = {"r": float(scores[env]), "l": int(n_frames), "t": seconds}
        scores[is_over] = 0
        rewards = (np.sign(rewards) if self.clip_reward else rewards).astype(np.float32)
        # At once: whoever is interrupted before looks at the same step again
        self._scores, self._obs, self._lives, self._starts = scores, obs, info["lives"], starts
        self._is_stepping, self._received = False, []
        if self.results_writer is not None:
            for env in np.flatnonzero(is_over).tolist():
                self.results_writer.write_row(infos[env]["episode"])
        return self._own_obs(), rewards, dones, infos

    def _own_obs(self) -> np.ndarray:
        """For a caller to write into: only for ``exact_gray`` are the next stacks made of ``_obs``, else by ALE."""
        return self._obs.copy() if self._is_exact else self._obs

    def _stacked(self, obs: np.ndarray, begins: np.ndarray) -> np.ndarray:
        """
        :param obs: (n_envs, frame_stack, height, width); for ``exact_gray`` (n_envs, 1, height, width, 3)
        :param begins: (n_envs,) a game begins
        :return: (n_envs, frame_stack, height, width)
        """
        if not self._is_exact:
            return obs
        import cv2  # of .[atari]

        before = np.where(begins[:, None, None, None], 0, self._obs[:, 1:])
        rgb = np.ascontiguousarray(obs).reshape(-1, obs.shape[3], 3)
        gray = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY).reshape(obs.shape[:4])
        return np.concatenate((before, gray), axis=1)

    def close(self) -> None:
        try:
            if self._ale is not None:
                self._finish_step()
        finally:
            self._ale = None  # ends its threads, and frees its emulators
            if self.results_writer is not None:
                self.results_writer.close()

    def get_images(self) -> Sequence[np.ndarray | None]:
        """
        :return: the newest frame of each game, (screen_size, screen_size, 3)
        """
        return list(np.repeat(self._obs[:, -1, :, :, None], 3, axis=-1))

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        try:
            return [self._attributes[env][attr_name] for env in self._get_indices(indices)]
        except KeyError:
            raise AttributeError(
                f"the games of {type(self).__name__} have no attribute {attr_name!r}, only {list(self._attributes[0])}"
            ) from None

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        for env in self._get_indices(indices):
            self._attributes[env][attr_name] = value

    def env_method(self, method_name: str, *args: Any, indices: VecEnvIndices = None, **kwargs: Any) -> list[Any]:
        methods = {"get_action_meanings": self._action_meanings, "render": lambda env: self.get_images()[env]}
        if method_name not in methods:
            raise AttributeError(
                f"the games of {type(self).__name__} have no method {method_name!r}, only {list(methods)}"
            )
        return [methods[method_name](env, *args, **kwargs) for env in self._get_indices(indices)]

    def _action_meanings(self, env: int) -> list[str]:
        return [action.name for action in self._ale.ale.get_action_set()]

    def env_is_wrapped(self, wrapper_class: type[gym.Wrapper], indices: VecEnvIndices = None) -> list[bool]:
        """Whether infos have what a wrapper puts there: true of ``Monitor``, and of what that is."""
        return [issubclass(Monitor, wrapper_class) for _ in self._get_indices(indices)]


def make_ale_vec_env(
    env_id: str, n_envs: int = 1, seed: int | None = None, monitor_dir: str | Path | None = None, **options: Any
) -> AleVecEnv:
    """
    In place of SB3's ``VecFrameStack(make_atari_env(env_id, n_envs), 4)``: several times the env steps per second.

    :param env_id: name of the game without frame skip, such as "PongNoFrameskip-v4"
    :param n_envs: number of games, each with a seed of its own
    :param seed: of the first game and of the actions that are drawn
    :param monitor_dir: folder for ``0.monitor.csv``, the statistics of all games
    :param options: as for ``AleVecEnv``, such as ``terminal_on_life_loss=False``
    :return: the games
    :raises ValueError: on another kind of environment, or an argument out of range
    """
    instance_of("monitor_dir", monitor_dir, str | os.PathLike | None, "the path of a folder, or None")
    env = _make(env_id, n_envs, seed, options)
    if monitor_dir is not None:
        header: dict[str, float | str] = {"t_start": env.t_start, "env_id": env.spec.id}
        env.results_writer = ResultsWriter(str(Path(monitor_dir) / "0"), header)
    return env


def replace_by_ale(venv: VecEnv, **options: Any) -> AleVecEnv:
    """
    For hyperparameter files, as a ``vec_env_wrapper`` without ``env_wrapper`` and ``frame_stack``.

    :param venv: unprocessed games, which are closed; name, number and seed are taken over, and the monitor file of a
        ``DummyVecEnv``; games in other processes do not tell theirs
    :param options: as for ``AleVecEnv``
    :return: the same games, played by ALE's vector environment
    :raises ValueError: on what cannot be taken over
    """
    instance_of("venv", venv, VecEnv, "a VecEnv of Atari games")
    if isinstance(venv.unwrapped, AleVecEnv):
        raise ValueError(f"venv={venv} is played by ALE's vector environment already: leave replace_by_ale out")
    games, specs = venv.unwrapped, [_spec_of(spec) for spec in venv.get_attr("spec")]
    if any(spec != specs[0] for spec in specs):
        raise ValueError(
            f"games={[spec.id for spec in specs]} differ: ALE's vector environment plays one kind at a time"
        )
    # All wrappers but those of gym.make itself, innermost first
    lost = [wrapper.name for wrapper in specs[0].additional_wrappers if wrapper.entry_point != _MONITOR]
    while isinstance(venv, VecEnvWrapper):
        lost += [] if isinstance(venv, VecCheckNan) else [type(venv).__name__]
        venv = venv.venv
    if lost:
        raise ValueError(
            f"what {lost[-1]} does would be lost: where replace_by_ale is the vec_env_wrapper, leave env_wrapper, "
            "frame_stack and normalize out, and give replace_by_ale the options of AtariWrapper"
        )
    is_monitored = games.env_is_wrapped(Monitor)[0]
    for name in ("info_keywords", "reset_keywords"):
        if is_monitored and games.get_attr(name)[0]:
            raise ValueError(f"{name}={games.get_attr(name)[0]} of Monitor are not supported here: leave them out")
    env = _make(specs[0], games.num_envs, games._seeds[0], options)
    if is_monitored and isinstance(games, DummyVecEnv):
        env.t_start, env.results_writer = games.get_attr("t_start")[0], games.get_attr("results_writer")[0]
        games.env_method("set_wrapper_attr", "results_writer", None, indices=0)  # which would close it
    venv.close()
    return env


def _make(env_id: str | EnvSpec, n_envs: int, seed: int | None, options: dict[str, Any]) -> AleVecEnv:
    seed = None if seed is None else whole_number("seed", seed, 0)
    env = AleVecEnv(env_id, n_envs, **options)
    if seed is not None:
        env.seed(seed)
        env.action_space.seed(seed)
    return env


def _spec_of(env_id: Any) -> EnvSpec:
    try:
        spec = env_id if isinstance(env_id, EnvSpec) else gym.spec(env_id)
    except (gym.error.Error, AttributeError, TypeError) as error:
        raise ValueError(f"env_id={env_id!r} is not known: write a name such as 'PongNoFrameskip-v4'") from error
    if "AtariEnv" not in str(spec.entry_point):
        raise ValueError(f"env_id={spec.id!r} is no Atari game: write the name of one, such as 'PongNoFrameskip-v4'")
    settings = spec.kwargs | {"max_episode_steps": spec.max_episode_steps}
    for name, allowed in _ALLOWED.items():
        if settings.get(name) not in allowed:
            raise ValueError(
                f"env_id={spec.id!r} has {name}={settings.get(name)!r}, which is not supported here: leave it "
                "out, or write the name of a game without frame skip, such as 'PongNoFrameskip-v4', and options of "
                "AleVecEnv"
            )
    return spec


def _first_frames(info: dict[str, np.ndarray]) -> np.ndarray:
    """(n_envs,) the number, since the emulator was started, of the frame with which each game began."""
    return info["frame_number"].astype(np.int64) - info["episode_frame_number"]
