"""Rainbow for Stable-Baselines3."""

from sb3_rainbow.buffers import RainbowDictReplayBuffer, RainbowReplayBuffer
from sb3_rainbow.noisy import NoisyLinear
from sb3_rainbow.policies import CnnPolicy, MlpPolicy, MultiInputPolicy
from sb3_rainbow.rainbow import RainbowDQN
from sb3_rainbow.sum_tree import SumTree

__version__ = "0.1.0"

__all__ = [
    "CnnPolicy",
    "MlpPolicy",
    "MultiInputPolicy",
    "NoisyLinear",
    "RainbowDQN",
    "RainbowDictReplayBuffer",
    "RainbowReplayBuffer",
    "SumTree",
    "__version__",
]
