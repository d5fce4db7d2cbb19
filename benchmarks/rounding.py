"""
In how many states bfloat16 chooses another action for a network that a Pong run has left.

    python benchmarks/rounding.py logs/pong/checkpoints/dqn_0/weights_700000.zip

Plays eight games with mean weights for 250 steps each, and prints the median difference between the two highest
Q-values, and the share of states in which another action has the highest Q-value under ``amp``: with the last layer in
bfloat16, and with it in float32.
"""

import argparse
from pathlib import Path
from typing import Any

import torch as th

from sb3_rainbow import RainbowDQN
from sb3_rainbow.envs import make_ale_vec_env

STEPS = 250


def played(model: RainbowDQN) -> list[th.Tensor]:
    """
    :param model: plays with mean weights
    :return: the observations of each step, (8, *obs_shape)
    """
    env = make_ale_vec_env("PongNoFrameskip-v4", n_envs=8, seed=3)
    obs: Any = env.reset()
    batches: list[Any] = []
    for _ in range(STEPS):
        batches.append(model.policy.obs_to_tensor(obs)[0])
        obs = env.step(model.predict(obs, deterministic=True)[0])[0]
    env.close()
    return batches


def q_values(model: RainbowDQN, batches: list[th.Tensor], amp: bool, full_precision: bool = True) -> th.Tensor:
    """
    :param model: its online network
    :param batches: (batch, *obs_shape) each
    :param amp: as gradient steps compute with ``amp``
    :param full_precision: of the last layer
    :return: (states, n_actions)
    """
    network, dtype = model.q_net, th.bfloat16 if amp else th.float32
    network.head.full_precision = full_precision
    with th.no_grad(), th.autocast("cpu", dtype=th.bfloat16, enabled=amp):
        outputs = [network.outputs(network.prepared(obs, dtype), is_prepared=True).float() for obs in batches]
    return network.head.q_values(th.cat(outputs))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path, nargs="+", help="files that pong.py has saved")
    for file in parser.parse_args().weights:
        model = RainbowDQN.load(file, device="cpu", buffer_size=1)
        batches = played(model)
        exact = q_values(model, batches, amp=False)
        best = exact.topk(2, dim=1).values
        shares = [
            (q_values(model, batches, True, full_precision).argmax(dim=1) != exact.argmax(dim=1)).float().mean()
            for full_precision in (False, True)
        ]
        print(
            f"{file.parent.name} {file.stem}: difference {(best[:, 0] - best[:, 1]).median():.4f}, another action "
            f"in {shares[0]:.1%} with the last layer in bfloat16, in {shares[1]:.1%} with it in float32",
            flush=True,
        )


if __name__ == "__main__":
    main()
