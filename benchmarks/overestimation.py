"""
By how much a network that a Pong run has left overestimates what its own play is worth.

    python benchmarks/overestimation.py logs/pong/checkpoints/dqn_0/weights_100000.zip

Plays eight games with mean weights, and prints the mean over all states of the highest Q-value, and of the discounted
return that came after them. Without error the two would be equal.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch as th

from sb3_rainbow import RainbowDQN
from sb3_rainbow.envs import make_ale_vec_env

# What comes after the last states counts for their returns: 0.99 to the power of 300 is 0.05
STEPS, MORE_STEPS = 900, 300


def compare(weights: Path) -> tuple[float, float]:
    """
    :param weights: saved model
    :return: mean of the highest Q-values, and of the discounted returns, in reward units
    """
    model = RainbowDQN.load(weights, device="cpu", buffer_size=1)
    env = make_ale_vec_env("PongNoFrameskip-v4", n_envs=8, seed=1000)
    obs: Any = env.reset()
    values, rewards, ends = [], [], []
    for _ in range(STEPS + MORE_STEPS):
        with th.no_grad():
            q_values = model.q_net(model.policy.obs_to_tensor(obs)[0])  # (8, n_actions), of the mean weights
        obs, reward, done, _ = env.step(q_values.argmax(dim=1).numpy())
        values.append(q_values.amax(dim=1).numpy())
        rewards.append(reward)
        ends.append(done)
    env.close()
    returns, after = np.zeros((STEPS + MORE_STEPS, 8)), np.zeros(8)
    for step in reversed(range(len(returns))):
        after = rewards[step] + model.gamma * np.where(ends[step], 0, after)
        returns[step] = after
    return float(np.mean(values[:STEPS])), float(returns[:STEPS].mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path, nargs="+", help="files that pong.py has saved")
    for file in parser.parse_args().weights:
        value, discounted_return = compare(file)
        print(f"{file.parent.name} {file.stem}: Q-value {value:.2f}, return {discounted_return:.2f}", flush=True)


if __name__ == "__main__":
    main()
