"""Small models of the tests."""

import copy

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
