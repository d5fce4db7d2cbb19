"""
Env steps per second of ``learn()`` on Pong, acting, playing, storing and learning: RainbowDQN, DQN and QR-DQN.

    python benchmarks/train.py --n-envs 1 8
    python benchmarks/train.py --n-envs 2 4 16 32 64 --learners DQN RainbowDQN --output train_scaling.csv
    python benchmarks/train.py --learners "RainbowDQN, slow" "RainbowDQN, slow, overlap" --output train_slow.csv
    python benchmarks/train.py --parts --n-envs 1 8 64 --learners DQN RainbowDQN

All make one gradient step of a batch of 32, with the Nature convolutions, for every four env steps, on all threads.
They learn in turn, in rounds, each in a process of its own; minimum, median and maximum of the rounds go to
``benchmarks/results/train.csv``, or ``--output``. The ratio is to the first learner with the same number of envs. "ALE"
is ``make_ale_vec_env``, otherwise games are SB3's ``make_atari_env`` and ``VecFrameStack``, with "processes" each in
one of its own, with "slow" there too and 20 ms late at every step, as a simulator may be. The plain Rainbow is the one
of ``learner.py`` in a loop as most have it. ``--parts`` measures instead how long acting, waiting for games, storing
and learning take, in milliseconds for every four env steps.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch as th
from learner import OFF, PlainRainbow
from machine import write_table
from processes import measure_in_turn
from sb3_contrib import QRDQN
from stable_baselines3 import DQN
from stable_baselines3.common.atari_wrappers import AtariStepReturn, AtariWrapper
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecFrameStack

from sb3_rainbow import RainbowDQN
from sb3_rainbow.envs import make_ale_vec_env

ENV_STEPS_PER_GRADIENT_STEP = 4
CLASSES = {"DQN": DQN, "QRDQN": QRDQN, "RainbowDQN": RainbowDQN, "plain Rainbow": RainbowDQN}
LEARNERS = (
    "DQN",
    "QRDQN",
    "plain Rainbow",
    "RainbowDQN, off",
    "RainbowDQN",
    "RainbowDQN, ALE",
    "RainbowDQN, ALE, overlap",
    "RainbowDQN, ALE, overlap, amp, compile",
)


class SlowGame(AtariWrapper):
    def step(self, action: int) -> AtariStepReturn:
        time.sleep(0.02)
        return super().step(action)


class PlainLoop:
    """
    Plays and learns as most single files do.

    :param model: a RainbowDQN, of which its env and its replay buffer are used
    """

    def __init__(self, model: Any) -> None:
        self.env, self.buffer = model.get_env(), model.replay_buffer
        self.rainbow = PlainRainbow(self.buffer)
        self.learning_starts, self.train_freq = model.learning_starts, model.train_freq.frequency
        self.gradient_steps, self.num_timesteps = model.gradient_steps, 0
        self.obs = self.env.reset()

    def learn(self, steps: int, reset_num_timesteps: bool = True) -> "PlainLoop":
        end = self.num_timesteps + steps
        while self.num_timesteps < end:
            self.rainbow.online.reset_noise()
            with th.no_grad():
                probabilities = self.rainbow.online(th.as_tensor(self.obs, device=self.buffer.device))
            actions = (probabilities * self.rainbow.support).sum(-1).argmax(1).cpu().numpy()
            next_obs, rewards, dones, infos = self.env.step(actions)
            last_obs = next_obs.copy()
            for env in dones.nonzero()[0]:
                last_obs[env] = infos[env]["terminal_observation"]
            self.buffer.add(self.obs, last_obs, actions, rewards, dones, infos)
            self.obs = next_obs
            self.num_timesteps += len(actions)
            is_due = self.num_timesteps // len(actions) % self.train_freq == 0
            for _ in range(self.gradient_steps if is_due and self.num_timesteps > self.learning_starts else 0):
                self.rainbow.step()
        return self


def make(learner: str, n_envs: int, device: str) -> Any:
    """
    :param learner: class, and switches that are on
    :param n_envs: number of games
    :param device: of the networks
    :return: a model that has learned for a while
    """
    name, *switches = learner.split(", ")
    if "ALE" in switches:
        env: Any = make_ale_vec_env("PongNoFrameskip-v4", n_envs, seed=0)
    else:
        kind = SubprocVecEnv if {"processes", "slow"} & set(switches) else DummyVecEnv
        wrapper = SlowGame if "slow" in switches else AtariWrapper
        games = make_vec_env("PongNoFrameskip-v4", n_envs, seed=0, wrapper_class=wrapper, vec_env_cls=kind)
        env = VecFrameStack(games, 4)
    arguments: dict[str, Any] = dict(OFF) if "off" in switches else {}
    arguments |= {switch: True for switch in switches if switch not in ("ALE", "processes", "slow", "off")}
    model = CLASSES[name](
        "CnnPolicy",
        env,
        buffer_size=10_000,
        learning_starts=500,
        batch_size=32,
        train_freq=max(ENV_STEPS_PER_GRADIENT_STEP // n_envs, 1),
        gradient_steps=max(n_envs // ENV_STEPS_PER_GRADIENT_STEP, 1),
        # Actions are the network's: random ones would cost nothing
        exploration_fraction=1e-6,
        exploration_final_eps=0.0,
        seed=0,
        device=device,
        **arguments,
    )
    return (PlainLoop(model) if name == "plain Rainbow" else model).learn(750)


def serve(learner: str, n_envs: int, device: str) -> None:
    """Learn for as many env steps as each line of the input says, and answer with env steps per second."""
    model = None
    for line in sys.stdin:
        model = model or make(learner, n_envs, device)  # now, not while another learns
        before, start = model.num_timesteps, time.perf_counter()
        model.learn(int(line), reset_num_timesteps=False)
        if device == "cuda":
            th.cuda.synchronize()
        print(json.dumps((model.num_timesteps - before) / (time.perf_counter() - start)), flush=True)


def parts(learner: str, n_envs: int, device: str, steps: int) -> dict[str, float]:
    """
    :param steps: env steps
    :return: milliseconds that each part of ``learn()`` takes for as many env steps as a gradient step is made for
    """
    model = make(learner, n_envs, device)
    seconds = {"acting": 0.0, "games": 0.0, "storing": 0.0, "learning": 0.0}

    def clocked(part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            result = function(*args, **kwargs)
            seconds[part] += time.perf_counter() - start
            return result

        return call

    model.predict = clocked("acting", model.predict)
    model._store_transition = clocked("storing", model._store_transition)
    model.train = clocked("learning", model.train)
    model.env.step = clocked("games", model.env.step)
    before, start = model.num_timesteps, time.perf_counter()
    model.learn(steps, reset_num_timesteps=False)
    seconds["all"] = time.perf_counter() - start
    scale = 1e3 * ENV_STEPS_PER_GRADIENT_STEP / (model.num_timesteps - before)
    return {part: round(each * scale, 2) for part, each in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n-envs", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--learners", nargs="+", default=list(LEARNERS), help="a class, and any switches")
    parser.add_argument("--steps", type=int, default=512, help="env steps of a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--output", help="file in benchmarks/results. Default: train.csv, or train_parts.csv")
    parser.add_argument("--parts", action="store_true", help="what takes how long in learn(), without overlap")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(args.serve, args.n_envs[0], args.device)
        return
    table: list[dict[str, Any]] = []
    if args.parts:
        if any(learner == "plain Rainbow" or "overlap" in learner for learner in args.learners):
            parser.error("--parts measures classes, without overlap: name them with --learners")
        for n_envs in args.n_envs:
            for learner in args.learners:
                row = {"n_envs": n_envs, "learner": learner, "device": args.device, "threads": th.get_num_threads()}
                table.append(row | parts(learner, n_envs, args.device, args.steps))
                print(*table[-1].values(), flush=True)
        write_table(args.output or "train_parts.csv", table)
        return
    for n_envs in args.n_envs:
        command = [sys.executable, __file__, "--device", args.device, "--n-envs", str(n_envs), "--serve"]
        speeds = measure_in_turn({each: [*command, each] for each in args.learners}, args.steps, args.rounds)
        base = float(np.median(speeds[args.learners[0]]))
        for learner, values in speeds.items():
            median = float(np.median(values))
            row = {"n_envs": n_envs, "learner": learner, "device": args.device, "threads": th.get_num_threads()}
            row |= {"min": round(min(values), 1), "median": round(median, 1), "max": round(max(values), 1)}
            table.append(row | {"ratio": round(median / base, 2)})
            print(*table[-1].values(), flush=True)
    write_table(args.output or "train.csv", table)


if __name__ == "__main__":
    main()
