"""Small models of the tests."""

import copy

import torch as th
from envs import Corridor
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_rainbow import RainbowDQN

OFF = {"double_q": False, "dueling": False, "noisy": False, "distributional": False, "prioritized_replay": False}
SMALL = {"buffer_size": 500, "learning_starts": 50, "batch_size": 16, "policy_kwargs": {"net_arch": [16]}, "seed": 0}


def make(env="CartPole-v1", policy="MlpPolicy", **kwargs):
    return RainbowDQN(policy, env, **{**copy.deepcopy(SMALL), **kwargs})


def corridors(n_envs, **kwargs):
    return DummyVecEnv([lambda: Corridor(**kwargs)] * n_envs)


class Record(BaseCallback):
    """Calls a function at every step, and keeps what it returns."""

    def __init__(self, function):
        super().__init__()
        self.function, self.values = function, []

    def _on_step(self):
        self.values.append(self.function(self))
        return True


def interrupt_at(env_step):
    """Stops learn() as Ctrl-C does."""

    def interrupt(callback):
        if callback.num_timesteps == env_step:
            raise KeyboardInterrupt

    return Record(interrupt)


def equal_weights(first, second):
    first, second = first.policy.state_dict(), second.policy.state_dict()
    return first.keys() == second.keys() and all(th.equal(first[key], second[key]) for key in first)
