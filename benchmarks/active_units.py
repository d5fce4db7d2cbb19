"""
How many hidden units take part in what a network that a Pong run has left decides.

    python benchmarks/active_units.py logs/pong/checkpoints/dueling_1/weights_100000.zip

Plays eight games with mean weights for 600 steps each, and prints of the hidden layer of each stream which share of its
units is active in a state, in the mean, how many were active in no state at all, and in which share of the states none
was: there, what the stream puts out is its bias, the same for all of them.
"""

import argparse
from pathlib import Path
from typing import Any

import torch as th
from torch import nn

from sb3_rainbow import RainbowDQN
from sb3_rainbow.envs import make_ale_vec_env

STEPS = 600


def active(model: RainbowDQN, streams: dict[str, nn.Sequential]) -> dict[str, th.Tensor]:
    """
    :param model: plays
    :param streams: by name; each has one hidden layer
    :return: by name, (states, width) whether a unit is active
    """
    outputs: dict[str, list[th.Tensor]] = {name: [] for name in streams}
    for name, stream in streams.items():
        stream[1].register_forward_hook(lambda _, __, output, name=name: outputs[name].append(output > 0))
    env = make_ale_vec_env("PongNoFrameskip-v4", n_envs=8, seed=1000)
    obs: Any = env.reset()
    for _ in range(STEPS):
        obs = env.step(model.predict(obs, deterministic=True)[0])[0]
    env.close()
    return {name: th.cat(batches) for name, batches in outputs.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path, nargs="+", help="files that pong.py has saved")
    for file in parser.parse_args().weights:
        model = RainbowDQN.load(file, device="cpu", buffer_size=1)
        names = ["Q-values"] if model.q_net.dueling is None else ["advantages", "value"]
        streams = dict(zip(names, model.q_net.streams, strict=True))
        for name, units in active(model, streams).items():
            share, is_used, is_empty = units.float().mean(), units.any(dim=0), ~units.any(dim=1)
            print(
                f"{file.parent.name} {file.stem}, {name}: {share:.1%} of {units.shape[1]} units active, "
                f"{int((~is_used).sum())} never, none in {is_empty.float().mean():.0%} of the states",
                flush=True,
            )


if __name__ == "__main__":
    main()
