"""benchmarks/pong.py, from which the numbers of the study come: stopped, gone on with, and ended."""

import copy
import importlib
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3.common.monitor import Monitor

from sb3_rainbow.envs import make_ale_vec_env

fcntl = pytest.importorskip("fcntl", reason="needs locks that Windows does not have, as the benchmark does")
BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def pong(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("pong")


@pytest.fixture
def pong_results(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("pong_results")


@pytest.fixture
def pong_compare(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("pong_compare")


@pytest.fixture
def short_games(pong, monkeypatch):
    """Pong that is cut off after 100 env steps: what is kept of games does not depend on how they go."""
    spec = copy.deepcopy(gym.spec("PongNoFrameskip-v4"))
    spec.kwargs["max_num_frames_per_episode"] = 400
    monkeypatch.setattr(pong, "make_ale_vec_env", lambda _, **kwargs: make_ale_vec_env(spec, **kwargs))


def train(pong, folder, steps):
    changes = {"batch_size": 8, "gradient_steps": 1, "train_freq": 10, "compile": False, "amp": False}
    changes |= {"epsilon_steps": 500, "learning_starts": steps // 2}
    arguments = pong.setting("dqn", max(steps, 1), changes, "cpu")
    pong.train(0, steps, arguments, folder / "dqn_0.csv", folder / "checkpoint")


@pytest.mark.usefixtures("short_games")
def test_a_run_that_has_ended_is_not_made_again(pong, tmp_path):
    """Nor do rows of games after the last checkpoint stay, which nobody knows the weights of."""
    table = tmp_path / "dqn_0.csv"
    train(pong, tmp_path, 1_000)
    first = table.read_text()
    rows = pong.read(table)
    assert rows
    train(pong, tmp_path, 1_000)
    assert table.read_text() == first
    pong.write(table, [*rows, rows[-1] | {"env_steps": 1_100.0}])
    train(pong, tmp_path, 1_000)
    assert pong.read(table) == rows
    train(pong, tmp_path, 2_000)  # goes on
    assert len(pong.read(table)) > len(rows)
    assert pong.read(table)[: len(rows)] == rows
    (model,) = (tmp_path / "checkpoint").glob("model_*")
    assert pong.RainbowDQN.load(model, buffer_size=1).exploration_fraction == 500 / 2_000  # as if begun so


@pytest.mark.parametrize(
    ("variant", "changes", "epsilon"),
    [
        ("dqn", {"epsilon_steps": 30_000}, (1.0, 0.002, 0.03)),
        ("rainbow", {"epsilon_steps": 30_000}, (0.01, 0.0002, 0.1)),  # the entry's
        ("rainbow", {"epsilon_steps": 30_000, "noisy": False}, (1.0, 0.002, 0.03)),
    ],
)
def test_epsilon_explores_where_nothing_is_noisy(pong, variant, changes, epsilon):
    arguments = pong.setting(variant, 1_000_000, changes, "cpu")
    names = ("exploration_initial_eps", "exploration_final_eps", "exploration_fraction")
    assert tuple(arguments[name] for name in names) == pytest.approx(epsilon)
    assert arguments["noisy"] == changes.get("noisy", variant == "rainbow")


def test_a_crash_leaves_a_model_with_its_own_replay_buffer(pong, tmp_path, monkeypatch):
    checkpoint = tmp_path / "checkpoint"
    train(pong, tmp_path, 80)

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(pong, "EVALUATION_STEPS", 40)
    with monkeypatch.context() as crash:
        crash.setattr(pong.RainbowDQN, "save_replay_buffer", interrupt)
        with pytest.raises(KeyboardInterrupt):
            train(pong, tmp_path, 240)
    assert (checkpoint / "model_240.zip").exists()
    assert pong.last_steps(checkpoint) == 80
    weights = [f"weights_{steps}.zip" for steps in (120, 160, 200, 240)]
    assert sorted(file.name for file in checkpoint.glob("weights_*")) == weights
    train(pong, tmp_path, 160)  # in other games: what is evaluated must not be of those that came to nothing
    names = ["model_160.zip", "replay_buffer_160.pkl", *weights[:2]]
    assert sorted(file.name for file in checkpoint.iterdir()) == names


def test_minutes_of_cpu_and_gpu_are_apart(pong_results, tmp_path, capsys):
    for folder, minutes in (("pong", 10.0), ("pong_cuda", 2.0)):
        row = dict.fromkeys(pong_results.FIELDS, 20.0) | {"minutes": minutes}
        pong_results.write(tmp_path / folder / "dqn_0.csv", [row] * 100)
    pong_results.print_table([tmp_path / "pong", tmp_path / "pong_cuda"], ["dqn", "rainbow"])
    cpu, gpu = capsys.readouterr().out.splitlines()[2:]
    assert cpu.startswith("| dqn | 1 | 20 | 20 | 10 |")
    assert gpu.startswith("| dqn, on a GPU | 1 | 20 | 20 | 2 |")


@pytest.mark.usefixtures("short_games")
def test_a_run_may_be_stopped_before_its_first_games_are_kept(pong, tmp_path):
    train(pong, tmp_path, 0)
    table = tmp_path / "dqn_0.csv"
    pong.write(table, [dict.fromkeys(pong.FIELDS, 1.0)])
    train(pong, tmp_path, 0)
    assert not table.exists()
    train(pong, tmp_path, 1_000)
    assert pong.read(table)


def test_results_without_checkpoints_are_not_written_over(pong, tmp_path):
    table = tmp_path / "dqn_0.csv"
    pong.write(table, [dict.fromkeys(pong.FIELDS, 1.0)])
    before = table.read_text()
    with pytest.raises(ValueError, match="--results"):
        train(pong, tmp_path, 1_000)
    assert table.read_text() == before


def test_a_run_that_is_gone_on_with_plays_other_games(pong, tmp_path):
    """All actions are random: with the same random numbers they, and no-ops, would come after the checkpoint again."""
    changes = {"learning_starts": 100_000, "compile": False, "amp": False}
    for steps in (400, 800):
        arguments = pong.setting("dqn", steps, changes, "cpu")
        pong.train(0, steps, arguments, tmp_path / "dqn_0.csv", tmp_path / "checkpoint")
    model = pong.RainbowDQN.load(tmp_path / "checkpoint" / "model_800")
    model.load_replay_buffer(tmp_path / "checkpoint" / "replay_buffer_800")
    buffer = model.replay_buffer
    assert buffer.size() == 100
    assert not np.array_equal(buffer.actions[:50], buffer.actions[50:100])
    first, later = (buffer._get_samples(np.arange(8 * row, 8 * row + 8)).observations for row in (0, 50))
    assert not np.array_equal(first, later)


def test_two_processes_do_not_make_the_same_run(pong, monkeypatch, tmp_path):
    """As when the benchmark was killed, and the run it had begun was not."""
    command = [sys.executable, BENCHMARKS / "pong.py", "--variants", "dqn", "--results", tmp_path, "--steps", "16"]
    command += ["--change", "learning_starts=100000"]
    folder = tmp_path / "learning_starts_100000" / "checkpoints" / "dqn_0"
    folder.mkdir(parents=True)
    descriptor = os.open(folder, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    second = subprocess.run(command, capture_output=True, text=True, check=False)
    os.close(descriptor)
    assert second.returncode == 1
    assert f"results={folder} is being made by another process: wait for it, or stop it" in second.stderr
    assert second.stderr.splitlines()[-2] == "these have failed:"
    assert not list(folder.iterdir())
    monkeypatch.setattr(sys, "argv", [*map(str, command[1:]), "--child"])
    pong.main()
    assert len(list(folder.iterdir())) == 2
    monkeypatch.setattr(sys, "argv", [*map(str, command[1:]), "--table"])
    with pytest.raises(ValueError, match="has no games: make a run with it first, with --steps enough for one to end"):
        pong.main()


def test_a_curve_is_one_of_episodes_that_have_ended(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(BENCHMARKS)
    read_curve = importlib.import_module("training_curve").read_curve
    env = Monitor(gym.make("CartPole-v1"), str(tmp_path / "0"))
    env.reset()
    with pytest.raises(ValueError, match=f"folder={re.escape(str(tmp_path))} has a run of which no episode has ended"):
        read_curve(tmp_path, 1)
    while not env.step(0)[2]:
        pass
    env.reset()
    curve = read_curve(tmp_path, 1)
    assert curve["return"].tolist() == curve["env_steps"].tolist() == env.get_episode_rewards()


def test_curves_of_one_name_are_not_written_over(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(BENCHMARKS)
    script = importlib.import_module("training_curve")
    monkeypatch.setattr(sys, "argv", ["training_curve.py", "a/run_1", "b/run_1", "--output", str(tmp_path / "curves")])
    with pytest.raises(ValueError, match=r"names=\['run_1', 'run_1'\] must differ.*--names"):
        script.main()
    assert not (tmp_path / "curves").exists()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        (["gama=0.9", "sigma_init=0.5"], r"change=\['gama'\] are no arguments"),
        (["device='cuda'"], r"change=\['device'\] are no arguments .*--device"),
        (["gamma=0.9", "gamma=0.95"], r"change=.* has a name twice"),
    ],
)
def test_nothing_is_begun_with_arguments_that_are_not_known(changes, named, pong, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["pong.py", "--results", str(tmp_path), "--change", *changes])
    with pytest.raises(ValueError, match=named):
        pong.main()
    assert not list(tmp_path.iterdir())


def test_bad_arguments_are_named(pong, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="steps"):
        pong.setting("dqn", 0, {}, "cpu")
    with pytest.raises(ValueError, match="n_envs=3"):
        pong.setting("dqn", 10_000, {"n_envs": 3}, "cpu")
    with pytest.raises(ValueError, match="epsilon_steps=-5"):
        pong.setting("dqn", 10_000, {"epsilon_steps": -5}, "cpu")
    bad = ("learning_rate", "learning_rate=x", "learning_rate=lin_x", "learning_rate=1e-4_then_3", "a=b=3")
    for change in (*bad, "learning_rate=1e-4_to_10000_then_1e-5", "learning_rate=1e-4_to_5_then_nan"):
        with pytest.raises(ValueError, match=f"change='{change}'"):
            pong.argument(change, 10_000)
    with pytest.raises(ValueError, match=r"results=.* no weights"):
        pong.evaluate(tmp_path, tmp_path / "dqn_0.csv")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    pong.check_device("cpu")
    for device in ("cuda", "nope"):
        with pytest.raises(ValueError, match=f"device='{device}'"):
            pong.check_device(device)


def test_changes_reach_what_they_name(pong):
    changes = {
        "n_envs": 16,
        "sigma_init": 0.5,
        "eps": 1e-8,
        "learning_starts": 7,
        "input_norm": True,
        "input_mean": 0.4,
        "input_std": 0.2,
    }
    arguments = pong.setting("rainbow", 10_000, changes, "cpu")
    assert (arguments["n_envs"], arguments["gradient_steps"], arguments["learning_starts"]) == (16, 8, 7)
    assert arguments["policy_kwargs"]["sigma_init"] == 0.5
    assert arguments["policy_kwargs"]["optimizer_kwargs"]["eps"] == 1e-8
    assert arguments["policy_kwargs"]["features_extractor_kwargs"] == {
        "layer_norm": True, "input_norm": True, "input_mean": 0.4, "input_std": 0.2}  # fmt: skip
    assert not {"sigma_init", "input_norm", "input_mean", "input_std"} & arguments.keys()
    assert pong.following(9_999, 10_000) == 10_000
    assert pong.following(10_000, 10_000) == 20_000


def test_n_step_is_three_variants(pong, tmp_path, monkeypatch):
    runs = []
    monkeypatch.setattr(pong, "run_side_by_side", lambda commands, jobs: runs.extend(commands))
    monkeypatch.setattr(sys, "argv", ["pong.py", "--variants", "3-step", "n_step", "--results", str(tmp_path)])
    with pytest.raises(ValueError, match="no games"):
        pong.main()
    assert [run[run.index("--variants") + 1] for run in runs] == ["3-step", "2-step", "4-step"]


def test_medians_count_runs_that_did_not_get_there(pong_results):
    assert pong_results.spread([1.0, 2.0, 3.0], 3) == "2 (1 to 3)"
    assert pong_results.spread([10.0, 20.0, 40.0], 4) == "30 (10 to 40), 3 of 4"
    assert pong_results.spread([10.0, 20.0], 4) == "over 20 (10 to 20), 2 of 4"
    assert pong_results.spread([], 2) == "none of 2"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_benchmark_stops_its_runs(number, tmp_path):
    """Three runs, two at a time: neither do these go on, nor does the third begin."""
    run = "import os, sys, time; open(sys.argv[1], 'w').write(str(os.getpid())); time.sleep(120)"
    commands = [[sys.executable, "-c", run, str(tmp_path / str(index))] for index in range(3)]
    benchmark = f"from processes import run_side_by_side; run_side_by_side({commands}, 2)"
    with subprocess.Popen([sys.executable, "-c", benchmark], cwd=BENCHMARKS) as process:
        files = [tmp_path / "0", tmp_path / "1"]
        while not all(file.exists() and file.read_text() for file in files):
            assert process.poll() is None
            time.sleep(0.1)
        process.send_signal(number)
        assert process.wait(60) == 128 + number
    for file in files:
        with pytest.raises(ProcessLookupError):
            os.kill(int(file.read_text()), 0)
    assert not (tmp_path / "2").exists()


@pytest.mark.parametrize(
    ("groups", "p"),
    [
        ([[1, 2, 3], [4, 5, 6]], 2 / 20),  # the two ends of 6! / (3! 3!) ways
        ([[4, 5, 6], [1, 2, 3]], 2 / 20),
        ([[1, 3], [2, 4]], 4 / 6),  # pairs in order 3; of 0, 1, 2, 2, 3, 4 four are as far from 2
        ([[1, 2], [3, 4], [5, 6]], 2 / 90),
        ([[7, 7], [7, 7, 7]], 1.0),
    ],
)
def test_exact_p_values(pong_compare, groups, p):
    assert pong_compare.trend_p(groups) == pytest.approx(p)


def test_runs_are_compared_seed_by_seed(pong_compare, pong_results, tmp_path):
    """A seed that was run twice is one value, between those of the other group. A block begins with its first step."""
    others = {"gradient_steps": 0, "minutes": 0.0, "episode": 0, "mean_of_100": 0.0}
    runs = {"a": {"x_0": 1.0, "y_0": 5.0, "x_1": 9.0}, "b": {"z_0": 2.0, "z_1": 4.0}}
    for group, scores in runs.items():
        for run, score in scores.items():
            games = [(99, score - 1), (99, score + 1), (100, -20.0)]
            rows = [others | {"env_steps": steps, "return": value} for steps, value in games]
            pong_results.write(tmp_path / group / f"{run}.csv", rows)
    groups = [[tmp_path / group / f"{run}.csv" for run in scores] for group, scores in runs.items()]
    head, *rows, last = pong_compare.compare(groups, 100)
    assert head == ["run", "from 0", "from 100", "to 18"]
    assert rows[1] == ["a/y_0", "5.0", "-20.0 (1 games)", "> 100"]
    assert last == ["p", f"{4 / 6:.2g}", "", f"{2 / 6:.2g} to 1"]  # 3 and 9 beside 2 and 4; all stopped together


def test_runs_that_have_not_won_may_be_late_or_never_win(pong_compare, pong_results, tmp_path):
    others = {"gradient_steps": 0, "minutes": 0.0, "episode": 0, "return": 0.0}
    for run, (steps, mean) in {"a_0": (300, 18.0), "b_0": (350, 19.0), "b_1": (200, 17.9)}.items():
        early = [others | {"env_steps": 1, "mean_of_100": 20.0} for _ in range(99)]  # of fewer than 100 games
        last = [{"env_steps": steps, "mean_of_100": mean}, {"env_steps": steps + 9, "mean_of_100": mean}]
        pong_results.write(tmp_path / f"{run}.csv", early + [others | row for row in last])
    groups = [[tmp_path / "a_0.csv"], [tmp_path / "b_0.csv", tmp_path / "b_1.csv"]]
    _, *rows, last = pong_compare.compare(groups, 1_000)
    assert [row[-1] for row in rows] == ["300", "350", "> 209"]
    # 300 beside 350 and 209: one pair of two in order, as most would have. Beside 350 and never: both, as one of three
    assert last[-1] == f"{2 / 3:.2g} to 1"
    # Three were stopped before three others had won: if they win at once, or never, nothing could be further apart
    stopped = {tmp_path / f"a_{seed}.csv": (100 + seed, False) for seed in range(3)}
    won = {tmp_path / f"b_{seed}.csv": (200 + seed, True) for seed in range(3)}
    assert pong_compare.goal_p([list(stopped), list(won)], stopped | won) == "0.1 to 1"
    many = {tmp_path / f"c_{seed}.csv": (100 + seed, False) for seed in range(6)}
    assert pong_compare.goal_p([list(many), list(stopped), list(won)], many | stopped | won) == ""  # at once
    runs = {tmp_path / f"d_{seed}.csv": (100 + seed, True) for seed in range(26)}
    assert pong_compare.goal_p([list(runs)[:13], list(runs)[13:]], runs) == ""
    assert math.isnan(pong_compare.trend_p([range(13), range(13)]))
    with pytest.raises(ValueError, match=r"runs=.*none_0.csv has no games"):
        pong_compare.compare([[tmp_path / "none_0.csv"]], 1_000)
