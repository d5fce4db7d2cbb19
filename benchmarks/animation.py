"""
A GIF of a trained Pong agent, from the first serve of a game.

    python benchmarks/animation.py trained_agents/rainbow/PongNoFrameskip-v4_1/PongNoFrameskip-v4.zip \
        --output benchmarks/results/pong/agent.gif
"""

import argparse
from pathlib import Path
from typing import Any

import ale_py
import gymnasium as gym
from PIL import Image
from stable_baselines3.common.env_util import make_atari_env
from stable_baselines3.common.vec_env import VecFrameStack

from sb3_rainbow import RainbowDQN


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--skip", type=int, default=60, help="env steps before the first picture")
    parser.add_argument("--steps", type=int, default=400, help="env steps, a picture for each second one")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    gym.register_envs(ale_py)
    env: Any = VecFrameStack(make_atari_env("PongNoFrameskip-v4", seed=args.seed), 4)
    model = RainbowDQN.load(args.model, device="cpu", buffer_size=1)
    obs, pictures = env.reset(), []
    for step in range(args.skip + args.steps):
        actions, _ = model.predict(obs, deterministic=True)
        obs, *_ = env.step(actions)
        if step >= args.skip and step % 2 == 0:
            pictures.append(Image.fromarray(env.render()).quantize(16))
    # An env step is 4 of 60 frames a second
    pictures[0].save(args.output, save_all=True, append_images=pictures[1:], duration=round(2 * 1000 * 4 / 60), loop=0)


if __name__ == "__main__":
    main()
