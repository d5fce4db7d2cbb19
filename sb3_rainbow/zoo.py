"""Roof: everything that rl_zoo3 needs to know of Rainbow."""

import functools
import inspect
from pathlib import Path
from typing import Any

from sb3_rainbow.rainbow import RainbowDQN

try:
    import optuna
    from rl_zoo3 import exp_manager, hyperparams_opt, utils
except ImportError as error:
    error.add_note("RL Zoo comes with the extra zoo: in a clone, pip install '.[zoo]'")
    raise

ALGO = "rainbow"


def hyperparams_file() -> Path:
    """
    :return: rainbow.yml, beside this file in an installed package, in the top folder of a checkout
    """
    here = Path(__file__).parent
    folder = here if (here / "hyperparams").is_dir() else here.parent
    return folder / "hyperparams" / f"{ALGO}.yml"


def register() -> None:
    """Make ``--algo rainbow`` known to all of rl_zoo3's scripts in this process. Calling it again changes nothing."""
    utils.ALGOS[ALGO] = RainbowDQN
    hyperparams_opt.HYPERPARAMS_SAMPLER[ALGO] = sample_rainbow_params
    hyperparams_opt.HYPERPARAMS_CONVERTER[ALGO] = convert_rainbow_params
    manager: Any = exp_manager.ExperimentManager
    if not getattr(manager, "knows_rainbow", False):
        manager.knows_rainbow = True
        manager.__init__ = _with_our_hyperparams(manager.__init__)


class _TrialNumber(int):
    """A trial's number. rl_zoo3 takes number 0, which is false, for no number."""

    def __bool__(self) -> bool:
        return True


def _with_our_hyperparams(init: Any) -> Any:
    signature = inspect.signature(init)

    @functools.wraps(init)
    def wrapper(self: exp_manager.ExperimentManager, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        if self.algo == ALGO:
            if not signature.bind(self, *args, **kwargs).arguments.get("config"):
                self.config = str(hyperparams_file())
            if self.trial_id is not None:
                self.trial_id = _TrialNumber(self.trial_id)

    return wrapper


def sample_rainbow_params(
    trial: optuna.Trial, n_actions: int, n_envs: int, additional_args: dict[str, Any]
) -> dict[str, Any]:
    """
    Sample hyperparameters for Rainbow. Others, such as ``learning_starts``, stay those of the hyperparameter file.

    :param trial: the trial
    :param n_actions: not used
    :param n_envs: not used: ``train_freq`` and ``subsample_steps`` count vectorised steps
    :param additional_args: whether HerReplayBuffer is used, for which n-step returns and priorities have no effect. The
        arguments of a replay buffer stay those of the hyperparameter file
    :return: arguments of ``RainbowDQN``
    """
    train_freq = trial.suggest_int("train_freq", 1, 10)
    params: dict[str, Any] = {
        "one_minus_gamma": trial.suggest_float("one_minus_gamma", 0.0001, 0.03, log=True),
        "batch_size_pow": trial.suggest_int("batch_size_pow", 4, 8),  # 16 to 256
        "learning_rate": trial.suggest_float("learning_rate", 1e-5, 0.002, log=True),
        "train_freq": train_freq,
        "subsample_steps": trial.suggest_int("subsample_steps", 1, min(train_freq, 8)),
        "target_update_interval": trial.suggest_int("target_update_interval", 10, 10_000, log=True),
        "net_arch": trial.suggest_categorical("net_arch", ["small", "medium", "big"]),
        "sigma_init": trial.suggest_float("sigma_init", 0.05, 1.0, log=True),
        # The support is -v_max to v_max: reward units, so the range is wide
        "v_max": trial.suggest_float("v_max", 1.0, 500.0, log=True),
        "n_atoms": trial.suggest_categorical("n_atoms", [21, 51, 101]),
    }
    if not additional_args["using_her_replay_buffer"]:
        params["n_steps"] = trial.suggest_int("n_steps", 1, 10)
        params["prioritized_replay_alpha"] = trial.suggest_float("prioritized_replay_alpha", 0.2, 0.8)
    trial.set_user_attr("gamma", 1 - params["one_minus_gamma"])
    trial.set_user_attr("batch_size", 2 ** params["batch_size_pow"])
    return convert_rainbow_params(params)


def convert_rainbow_params(sampled_params: dict[str, Any]) -> dict[str, Any]:
    """
    Turn a trial's parameters into arguments of ``RainbowDQN``.

    ``policy_kwargs`` replace those of the hyperparameter file, so they are complete.

    :param sampled_params: as stored in an Optuna study
    :return: arguments of ``RainbowDQN``
    """
    params = sampled_params.copy()
    v_max = params.pop("v_max")
    network = {"v_min": -v_max, "v_max": v_max} | {name: params.pop(name) for name in ("sigma_init", "n_atoms")}
    hyperparams = hyperparams_opt.convert_offpolicy_params(params)
    hyperparams["policy_kwargs"] |= network
    return hyperparams
