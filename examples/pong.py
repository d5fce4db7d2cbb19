"""
Train Rainbow on Pong from Python, with SB3's own tools around it, and evaluate it in five games.

Needs ``pip install -e ".[atari,zoo]"``, the second for the progress bar.

    python examples/pong.py --steps 300000
"""

import argparse

import ale_py
import gymnasium as gym
from stable_baselines3.common.callbacks import CheckpointCallback
from stable_baselines3.common.env_util import make_atari_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecEnv, VecFrameStack

from sb3_rainbow import RainbowDQN

gym.register_envs(ale_py)


def make_env(n_envs: int, seed: int) -> VecEnv:
    return VecFrameStack(make_atari_env("PongNoFrameskip-v4", n_envs=n_envs, seed=seed), n_stack=4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=float, default=3e5, help="env steps, 4 emulator frames each")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    model = RainbowDQN(
        "CnnPolicy",
        make_env(n_envs=8, seed=args.seed),
        # All below is for a CPU: RainbowDQN("CnnPolicy", env) is Rainbow as published
        learning_rate=3e-4,
        buffer_size=100_000,
        learning_starts=5_000,
        batch_size=64,
        train_freq=1,
        gradient_steps=4,  # after 8 env steps
        target_update_interval=250,
        exploration_initial_eps=0.01,
        exploration_final_eps=0.0002,
        policy_kwargs={
            "features_extractor_class": "sb3_rainbow.networks.DataEfficientConv",
            "features_extractor_kwargs": {"layer_norm": True, "input_mean": 0.417},  # of a screen of Pong
            "v_min": -3,
            "v_max": 3,
            "sigma_init": 0.1,
            "optimizer_kwargs": {"eps": 1e-5, "fused": True},
        },
        verbose=1,
        seed=args.seed,
    )
    checkpoints = CheckpointCallback(save_freq=50_000 // 8, save_path="logs/pong")
    model.learn(args.steps, callback=checkpoints, progress_bar=True)
    model.save("logs/pong/rainbow", play_only=True)

    player = RainbowDQN.load("logs/pong/rainbow")
    mean, deviation = evaluate_policy(player, make_env(n_envs=1, seed=1000), n_eval_episodes=5)
    print(f"5 games: {mean:.1f} +- {deviation:.1f}")


if __name__ == "__main__":
    main()
