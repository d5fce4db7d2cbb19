"""
How soon DQN, each of Rainbow's extensions alone, and all of them together solve Pong, with one setting for all.

    python benchmarks/pong.py --variants dqn rainbow --seeds 0 1 2 --jobs 2
    python benchmarks/pong.py --evaluate --variants rainbow --seeds 0
    python benchmarks/pong.py --table --results benchmarks/results/pong
    python benchmarks/pong.py --change gamma=0.98 target_update_interval=500 --variants dqn noisy --jobs 2
    python benchmarks/pong.py --change target_update_interval=1000 --device cuda --jobs 4

A run ends when the mean of its last 100 training games reaches 18, or after ``--steps`` env steps. It writes one row
per game to ``VARIANT_SEED.csv`` in ``--results``. It may be stopped at any time: the same command goes on from the last
checkpoint beside it, of which there is one every 50,000 env steps and one at the end. It begins new games there, with
other random numbers, so that it is another run from then on, and minutes go on from the last game before. What has
ended is not made again, and results without checkpoints, such as the shipped ones, are not written over. The table says
when each variant first had a mean of 0, 10, 17 and 18, on a CPU and on a GPU, beside that of M. Lapan's book
(``pong_variants.md``); with it ``variants.png`` is drawn there. Both show the runs of the folders of ``--beside`` too.
The variant ``n_step`` is all of 2-, 3- and 4-step. ``--evaluate`` plays 20 games with what each run knew after every
10,000 env steps, up to the first mean of 18. The setting is the shipped entry's, which was tuned for Rainbow.
``--change`` changes arguments of it or of its ``policy_kwargs``, ``n_envs``, Adam's ``eps``, ``layer_norm``,
``input_norm``, ``input_mean`` and ``input_std`` of the convolutions, or ``epsilon_steps``, the env steps in which
epsilon falls where nothing is noisy, for all, and has folders of its own for results and checkpoints, as has another
``--device``, where learning is overlapped with playing.
"""

import argparse
import ast
import inspect
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
import yaml
from machine import check_device
from pong_results import FIELDS, GOALS, draw_curves, print_table, read, write
from processes import made_by_one, run_side_by_side
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.utils import LinearSchedule

from sb3_rainbow import RainbowDQN
from sb3_rainbow.arguments import number, whole_number
from sb3_rainbow.available import bfloat16_is_faster
from sb3_rainbow.envs import make_ale_vec_env

ENTRIES = Path(__file__).parents[1] / "hyperparams" / "rainbow.yml"
CHECKPOINT_STEPS, EVALUATION_STEPS = 50_000, 10_000
SCHEDULES = ("learning_rate", "exploration_fraction", "prioritized_replay_beta_fraction")  # over --steps
EVALUATION_GAMES = 20
OFF = {"n_steps": 1, "double_q": False, "dueling": False, "noisy": False, "distributional": False}
OFF["prioritized_replay"] = False
SWITCHES: dict[str, dict[str, Any]] = {
    "dqn": {},
    "2-step": {"n_steps": 2},
    "3-step": {"n_steps": 3},
    "4-step": {"n_steps": 4},
    "double": {"double_q": True},
    "dueling": {"dueling": True},
    "noisy": {"noisy": True},
    "prioritized": {"prioritized_replay": True},
    "categorical": {"distributional": True},
    "rainbow": {"n_steps": 3} | {name: True for name in OFF if name != "n_steps"},
}
GROUPS = {"n_step": ["2-step", "3-step", "4-step"]}


def setting(variant: str, steps: int, changes: dict[str, Any], device: str) -> dict[str, Any]:
    """
    :param variant: its switches
    :param steps: env steps at most. Epsilon and beta change as in the entry, however many these are, but where they are
        too few for that have their last values at the end; beta keeps it when a run goes on
    :param changes: arguments and switches that are others, also of the entry's ``policy_kwargs``, Adam's ``eps``, its
        convolutions' ``layer_norm``, ``input_norm``, ``input_mean`` and ``input_std``, and ``epsilon_steps``; n_envs
        does not change gradient steps per env step
    :param device: such as "cpu" or "cuda"
    :return: n_envs, and arguments of RainbowDQN: the shipped Pong entry, compiled, and in bfloat16 where that is not
        known to be slower. Where nothing is noisy, epsilon falls from 1, as published, but not to 0.02: 0.01 alone cost
        a network that won by 20 points 3.6 of them
    :raises ValueError: when there are no steps, no whole gradient steps for each step of so many envs, or no such
        arguments
    """
    steps = whole_number("steps", steps, 1)
    entry = yaml.safe_load(ENTRIES.read_text())["PongNoFrameskip-v4"]
    scale = entry["n_timesteps"] / steps
    entry["exploration_fraction"] = min(entry["exploration_fraction"] * scale, 1.0)
    entry["prioritized_replay_beta_fraction"] = min(scale, 1.0)
    for name in ("env_wrapper", "frame_stack", "n_timesteps", "policy"):
        del entry[name]
    n_envs = whole_number("n_envs", changes.get("n_envs", entry["n_envs"]), 1)
    entry["gradient_steps"], rest = divmod(entry["gradient_steps"] * n_envs, entry["n_envs"])
    if rest and "gradient_steps" not in changes:
        raise ValueError(f"n_envs={n_envs} leaves no whole gradient steps for each step of the envs: write an even one")
    entry["policy_kwargs"] = eval(entry["policy_kwargs"])  # as RL Zoo does
    switches = OFF | SWITCHES[variant]
    changes = dict(changes)
    epsilon_steps = changes.pop("epsilon_steps", None)
    if not changes.get("noisy", switches["noisy"]):
        entry |= {"exploration_initial_eps": 1.0, "exploration_final_eps": 0.002}
        if epsilon_steps is not None:
            entry["exploration_fraction"] = min(whole_number("epsilon_steps", epsilon_steps, 1) / steps, 1.0)
    kwargs = entry["policy_kwargs"]
    known = {"input_norm": False, "input_mean": 0.0, "input_std": 1.0}
    kwargs["features_extractor_kwargs"] = known | kwargs["features_extractor_kwargs"]
    for arguments in (kwargs["optimizer_kwargs"], kwargs["features_extractor_kwargs"], kwargs):
        arguments |= {name: changes.pop(name) for name in arguments.keys() & changes.keys()}
    own = inspect.signature(RainbowDQN).parameters.keys() - {"policy", "env", "seed", "device", "_init_setup_model"}
    unknown = changes.keys() - {"n_envs"} - own
    if unknown:
        raise ValueError(
            f"change={sorted(unknown)} are no arguments of RainbowDQN or of the entry's policy_kwargs that may differ: "
            "leave them out, and write --seeds and --device"
        )
    device_type = th.device(device).type
    speed = {"amp": bfloat16_is_faster(device_type), "compile": True, "overlap": device_type != "cpu"}
    return entry | switches | speed | changes | {"device": device}


class Games(BaseCallback):
    """
    Writes a row for each game, stops at the last goal, and keeps checkpoints.

    :param table: file of the rows
    :param rows: those of an earlier part of the run
    :param checkpoint: folder
    """

    def __init__(self, table: Path, rows: list[dict[str, Any]], checkpoint: Path) -> None:
        super().__init__()
        self.table, self.rows, self.checkpoint = table, rows, checkpoint
        self.minutes_before = rows[-1]["minutes"] if rows else 0.0

    def _on_training_start(self) -> None:
        self.start = time.perf_counter()
        self.next_checkpoint = following(self.num_timesteps, CHECKPOINT_STEPS)
        self.next_weights = following(self.num_timesteps, EVALUATION_STEPS)

    def _on_step(self) -> bool:
        for info in self.locals["infos"]:
            if "episode" in info:
                self.rows.append(self._row(info["episode"]["r"]))
                write(self.table, self.rows)
        if self.num_timesteps >= self.next_weights:
            self.next_weights = following(self.num_timesteps, EVALUATION_STEPS)
            self.model.save(self.checkpoint / f"weights_{self.num_timesteps}", play_only=True)  # type: ignore[call-arg]
        if self.num_timesteps >= self.next_checkpoint:
            self.next_checkpoint = following(self.num_timesteps, CHECKPOINT_STEPS)
            save(self.model, self.checkpoint)
        return not is_solved(self.rows)

    def _on_training_end(self) -> None:
        save(self.model, self.checkpoint)

    def _row(self, score: float) -> dict[str, Any]:
        minutes = self.minutes_before + (time.perf_counter() - self.start) / 60
        last = [row["return"] for row in self.rows[-99:]] + [score]
        values = (self.num_timesteps, self.model._n_updates, round(minutes, 2), len(self.rows) + 1, score)
        return dict(zip(FIELDS, (*values, round(float(np.mean(last)), 3)), strict=True))


def following(env_steps: int, period: int) -> int:
    return (env_steps // period + 1) * period


def save(model: Any, checkpoint: Path) -> None:
    """
    :param model: to go on with later. The one before stays until this one and its replay buffer are complete
    :param checkpoint: folder
    """
    before = [file for pattern in ("model_*", "replay_buffer_*") for file in checkpoint.glob(pattern)]
    model.save(checkpoint / f"model_{model.num_timesteps}")
    model.save_replay_buffer(checkpoint / f"replay_buffer_{model.num_timesteps}")
    for file in before:
        if steps_of(file) != model.num_timesteps:
            file.unlink()


def steps_of(file: Path) -> int:
    return int(file.stem.split("_")[-1])


def last_steps(checkpoint: Path) -> int | None:
    """
    :param checkpoint: folder
    :return: env steps of the last model that was saved with its replay buffer
    """
    return max(map(steps_of, checkpoint.glob("replay_buffer_*.pkl")), default=None)


def is_solved(rows: list[dict[str, Any]]) -> bool:
    return len(rows) >= 100 and rows[-1]["mean_of_100"] >= GOALS[-1]


def train(seed: int, steps: int, arguments: dict[str, Any], table: Path, checkpoint: Path) -> None:
    """
    :param seed: of everything
    :param steps: env steps at most
    :param arguments: what ``setting`` returned
    :param table: file of the games
    :param checkpoint: folder
    :raises ValueError: when there are games of a run that has left no checkpoint
    """
    last = last_steps(checkpoint)
    if table.exists() and last is None:
        raise ValueError(
            f"results={table} is there already, without a checkpoint in {checkpoint} to go on from: write --results "
            "with another folder, or remove it"
        )
    th.set_num_threads(1)
    env = make_ale_vec_env("PongNoFrameskip-v4", n_envs=arguments.pop("n_envs"), seed=seed)
    if last is not None:
        schedules = {name: arguments[name] for name in SCHEDULES}
        model = RainbowDQN.load(checkpoint / f"model_{last}", env, device=arguments["device"], **schedules)
        model.load_replay_buffer(checkpoint / f"replay_buffer_{last}")
        model.set_random_seed(seed + last)  # or what was drawn from the start on would be drawn once more
        rows = [row for row in read(table) if row["env_steps"] <= model.num_timesteps]
    else:
        model = RainbowDQN("CnnPolicy", env, seed=seed, **arguments)
        rows = []
        checkpoint.mkdir(parents=True, exist_ok=True)
        save(model, checkpoint)  # or games before the next one could not be told from somebody else's
    for file in checkpoint.glob("weights_*.zip"):
        if steps_of(file) > model.num_timesteps:  # of the games after the checkpoint, which are played anew
            file.unlink()
    if rows:
        write(table, rows)
    else:
        table.unlink(missing_ok=True)
    left = steps - model.num_timesteps
    if left > 0 and not is_solved(rows):
        model.learn(left, Games(table, rows, checkpoint), reset_num_timesteps=False)


def evaluate(checkpoint: Path, table: Path) -> None:
    """
    Play with the weights that a run has left, up to the first mean of the last goal, and write the means.

    :param checkpoint: folder of the run
    :param table: file of the means
    :raises ValueError: when it has left none
    """
    files = sorted(checkpoint.glob("weights_*.zip"), key=steps_of)
    if not files:
        raise ValueError(f"results={checkpoint} has no weights to play with: make this run first")
    env = make_ale_vec_env("PongNoFrameskip-v4", n_envs=8, seed=1000)
    rows = []
    for file in files:
        model = RainbowDQN.load(file, device="cpu", buffer_size=1)
        games, _ = evaluate_policy(model, env, EVALUATION_GAMES, deterministic=True, return_episode_rewards=True)
        row = {"env_steps": steps_of(file), "games": EVALUATION_GAMES, "mean": float(np.mean(games))}
        rows.append(row | {"min": float(np.min(games)), "max": float(np.max(games))})
        print(checkpoint.name, *rows[-1].values(), flush=True)
        write(table, rows)
        if row["mean"] >= GOALS[-1]:
            break


class ChangesOnce:
    """
    A schedule that changes once.

    :param first: the value before
    :param share: of the env steps
    :param later: the value after
    """

    def __init__(self, first: float, share: float, later: float) -> None:
        self.first, self.share, self.later = first, share, later

    def __call__(self, progress_remaining: float) -> float:
        return self.first if 1 - progress_remaining < self.share else self.later


def argument(change: str, steps: int) -> tuple[str, Any]:
    """
    :param change: ``NAME=NUMBER``, ``NAME=lin_NUMBER`` for one that falls to 0 over the env steps, as in RL Zoo, or
        ``NAME=NUMBER_to_ENV-STEPS_then_NUMBER``
    :param steps: env steps at most
    :return: name and value
    :raises ValueError: when it is not written so
    """
    try:
        name, value = change.split("=")
        if "_then_" in value:
            first, later = value.split("_then_")
            first, last_step = first.split("_to_")
            share = whole_number("ENV-STEPS", int(last_step), 1, steps - 1) / steps
            return name, ChangesOnce(number(name, float(first), 0), share, number(name, float(later), 0))
        if value.startswith("lin_"):
            return name, LinearSchedule(float(value.removeprefix("lin_")), 0, 1)
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError) as error:
        raise ValueError(
            f"change={change!r} is no such change ({error}): write NAME=NUMBER, such as learning_rate=1e-4, "
            "NAME=lin_NUMBER or NAME=NUMBER_to_ENV-STEPS_then_NUMBER"
        ) from error


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", nargs="+", default=list(SWITCHES), choices=[*SWITCHES, *GROUPS])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, one thread each")
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument(
        "--results", type=Path, default=Path("logs/pong"), help="folder of tables, picture and checkpoints"
    )
    parser.add_argument("--change", nargs="+", default=[], metavar="NAME=NUMBER", help="of arguments: see above")
    parser.add_argument("--device", default="cpu", help="such as cuda")
    parser.add_argument("--table", action="store_true", help="print the table of all runs there, and run nothing")
    parser.add_argument(
        "--beside", type=Path, nargs="+", default=[], help="more folders of results in table and picture"
    )
    parser.add_argument("--evaluate", action="store_true", help="play with the weights of runs, and train nothing")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.steps = whole_number("steps", args.steps, 1)
    variants = list(dict.fromkeys(variant for name in args.variants for variant in GROUPS.get(name, [name])))
    names = [change.replace("=", "_") for change in args.change]
    folder = "_".join(names if args.device == "cpu" else [*names, args.device])
    changes = dict(argument(change, args.steps) for change in args.change)
    if len(changes) < len(args.change):
        raise ValueError(f"change={args.change} has a name twice: write each once")
    results = args.results / folder
    checkpoints = results / "checkpoints"
    if args.child:
        run = f"{variants[0]}_{args.seeds[0]}"
        arguments = setting(variants[0], args.steps, changes, args.device)
        with made_by_one(checkpoints / run):
            train(args.seeds[0], args.steps, arguments, results / f"{run}.csv", checkpoints / run)
        return
    if args.evaluate:
        for variant in variants:
            for seed in args.seeds:
                run = f"{variant}_{seed}"
                evaluate(checkpoints / run, results / "evaluations" / f"{run}.csv")
        return
    if not args.table:
        check_device(args.device)
        for variant in variants:  # before any is begun
            setting(variant, args.steps, changes, args.device)
        command = [sys.executable, __file__, "--child", "--steps", str(args.steps)]
        command += ["--results", str(args.results), "--device", args.device]
        command += ["--change", *args.change] if args.change else []
        runs = [
            [*command, "--variants", variant, "--seeds", str(seed)]
            for seed in dict.fromkeys(args.seeds)
            for variant in variants
        ]
        run_side_by_side(runs, args.jobs)
    for each in (results, *args.beside):
        if not any(each.glob("*_*.csv")):
            raise ValueError(
                f"results={each} has no games: make a run with it first, with --steps enough for one to end (some "
                "8,000), or write another folder"
            )
    print_table([results, *args.beside], SWITCHES)
    draw_curves([results, *args.beside], SWITCHES)


if __name__ == "__main__":
    main()
