"""Small environments and transitions for the tests."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces


class Corridor(gym.Env):
    """
    Episodes of known length and reward, with observations that name their episode and step.

    :param length: steps until it ends
    :param truncate: end with a truncation, not a terminal state
    :param observation: "vector", "image", "dict" or "discrete"
    :param n_actions: number of actions, which have no effect
    """

    def __init__(
        self, length: int = 5, truncate: bool = False, observation: str = "vector", n_actions: int = 2
    ) -> None:
        self.length, self.truncate, self.observation = length, truncate, observation
        self.action_space = spaces.Discrete(n_actions)
        vector = spaces.Box(-1e6, 1e6, (2,), np.float32)
        image = spaces.Box(0, 255, (3, 36, 36), np.uint8)
        self.observation_space: spaces.Space = {
            "vector": vector,
            "image": image,
            "dict": spaces.Dict({"vector": vector, "image": image}),
            "discrete": spaces.Discrete(length + 1),
        }[observation]
        self.episode = self.steps = 0

    def _observe(self) -> Any:
        vector = np.array([self.episode, self.steps], dtype=np.float32)
        image = np.zeros((3, 36, 36), dtype=np.uint8)
        image[:2] = np.array([self.episode % 256, self.steps])[:, None, None]
        if self.observation == "discrete":
            return self.steps
        return {"vector": vector, "image": image, "dict": {"vector": vector, "image": image}}[self.observation]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        self.episode += 1
        self.steps = 0
        return self._observe(), {}

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict]:
        self.steps += 1
        ended = self.steps == self.length
        return self._observe(), float(self.steps), ended and not self.truncate, ended and self.truncate, {}


def random_transitions(
    rng: np.random.Generator, n_steps: int, n_envs: int, space: spaces.Space, end: float = 0.15
) -> list[tuple[Any, Any, np.ndarray, np.ndarray, np.ndarray, list[dict]]]:
    """
    Rows as ``ReplayBuffer.add`` takes them: random observations, rewards, terminals and truncations.

    :param end: probability that a step ends its episode; half of these are truncations
    """

    def observations() -> Any:
        if isinstance(space, spaces.Dict):
            return {key: np.stack([space[key].sample() for _ in range(n_envs)]) for key in space.spaces}
        return np.stack([space.sample() for _ in range(n_envs)])

    space.seed(int(rng.integers(2**31)))
    rows, obs = [], observations()
    for _ in range(n_steps):
        next_obs = observations()
        dones = rng.random(n_envs) < end
        truncated = dones & (rng.random(n_envs) < 0.5)
        infos = [{"TimeLimit.truncated": bool(flag)} for flag in truncated]
        rewards = rng.standard_normal(n_envs).astype(np.float32)
        rows.append((obs, next_obs, rng.integers(0, 2, (n_envs, 1)), rewards, dones, infos))
        obs = next_obs
    return rows
