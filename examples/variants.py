"""
Variants of DQN are Rainbow with some switches off: train nine of them for a while on CartPole.

    python examples/variants.py --steps 20000
"""

import argparse
from typing import Any

from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

from sb3_rainbow import RainbowDQN

SWITCHES = ("double_q", "dueling", "noisy", "distributional", "prioritized_replay")
OFF: dict[str, Any] = {**dict.fromkeys(SWITCHES, False), "n_steps": 1}
VARIANTS: dict[str, dict[str, Any]] = {
    "DQN": OFF,
    "double DQN": OFF | {"double_q": True},
    "dueling DQN": OFF | {"dueling": True},
    "noisy DQN": OFF | {"noisy": True},
    "C51": OFF | {"distributional": True},
    "3-step DQN": OFF | {"n_steps": 3},
    "prioritized DQN": OFF | {"prioritized_replay": True},
    "prioritized double DQN": OFF | {"double_q": True, "prioritized_replay": True},
    "Rainbow": {},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=float, default=2e4, help="env steps")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    for name, switches in VARIANTS.items():
        model = RainbowDQN(
            "MlpPolicy",
            "CartPole-v1",
            learning_rate=1e-3,
            learning_starts=1_000,
            buffer_size=50_000,
            target_update_interval=200,
            policy_kwargs={"v_min": 0, "v_max": 100, "sigma_init": 0.1},
            seed=args.seed,
            **switches,
        )
        model.learn(args.steps)
        env = make_vec_env("CartPole-v1", seed=args.seed + 1000)
        mean, deviation = evaluate_policy(model, env, n_eval_episodes=10)
        print(f"{name:24s} {mean:6.1f} +- {deviation:.1f}")


if __name__ == "__main__":
    main()
