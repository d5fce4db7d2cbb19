"""rl_zoo3's scripts with Rainbow: training, playing, search, and the rest."""

import argparse
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
import warnings
import zipfile
from importlib import metadata
from pathlib import Path

import numpy as np
import optuna
import pytest
import rl_zoo3.enjoy
import rl_zoo3.train
import yaml
from huggingface_hub import repocard
from needs import needs_box2d
from packaging.requirements import Requirement
from rl_zoo3.exp_manager import ExperimentManager
from rl_zoo3.hyperparams_opt import HYPERPARAMS_CONVERTER, HYPERPARAMS_SAMPLER
from rl_zoo3.utils import ALGOS
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.envs import BitFlippingEnv
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import load_results

from sb3_rainbow import RainbowDQN
from sb3_rainbow.__main__ import _mend_push_to_hub, _to_ourselves, main
from sb3_rainbow.envs import make_ale_vec_env
from sb3_rainbow.networks import DataEfficientConv
from sb3_rainbow.zoo import convert_rainbow_params, hyperparams_file, register, sample_rainbow_params

ROOT = Path(__file__).parent.parent
ENTRIES = yaml.safe_load(hyperparams_file().read_text())
QUICK = ["learning_starts:50", "buffer_size:1000"]


@pytest.fixture(autouse=True)
def registered(monkeypatch, tmp_path):
    register()
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def zoo(monkeypatch):
    """Call one of rl_zoo3's functions as from the command line."""

    def call(function, *arguments):
        monkeypatch.setattr(sys, "argv", ["script", *arguments])
        return function()

    return call


@pytest.mark.parametrize(
    ("module", "package", "extra"), [("sb3_rainbow.envs", "ale_py", "atari"), ("sb3_rainbow.zoo", "rl_zoo3", "zoo")]
)
def test_an_extra_that_is_missing_is_named(module, package, extra, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with warnings.catch_warnings(action="ignore"), pytest.raises(ImportError) as caught:  # it is imported already
        runpy.run_module(module)
    assert any(f"pip install '.[{extra}]'" in note for note in caught.value.__notes__)


def train(zoo, *arguments, env="CartPole-v1"):
    zoo(rl_zoo3.train.train, "--algo", "rainbow", "--env", env, "-f", "logs", "--eval-freq", "-1", "--seed", "0",
        "--num-threads", "1", *arguments)  # fmt: skip


def run(*command):
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=900)


def test_register_makes_rainbow_known():
    register()  # twice changes nothing
    assert ALGOS["rainbow"] is RainbowDQN
    assert HYPERPARAMS_SAMPLER["rainbow"] is sample_rainbow_params
    assert HYPERPARAMS_CONVERTER["rainbow"] is convert_rainbow_params
    assert not hasattr(ExperimentManager.__init__.__wrapped__, "__wrapped__")


def test_register_after_another_package_has_wrapped_the_manager():
    code = """
import functools
from rl_zoo3.exp_manager import ExperimentManager as Manager
init = Manager.__init__
Manager.__init__ = functools.wraps(init)(lambda *args, **kwargs: init(*args, **kwargs))
from sb3_rainbow.zoo import hyperparams_file, register
register()
assert Manager(None, "rainbow", "CartPole-v1", "logs").config == str(hyperparams_file())
"""
    assert run("-c", code).returncode == 0


def manager(algo="rainbow", **kwargs):
    return ExperimentManager(None, algo, "CartPole-v1", "logs", **kwargs)


def test_our_hyperparameters_are_found_and_those_of_others_left_alone():
    assert manager().config == str(ROOT / "hyperparams" / "rainbow.yml")
    assert manager(config="mine.yml").config == "mine.yml"
    others = manager("dqn").config
    assert others.endswith("dqn.yml")
    assert Path(others).is_file()
    assert "rl_zoo3" in others


def test_entries():
    assert ENTRIES.keys() == {
        "default", "atari", "PongNoFrameskip-v4", "CartPole-v1", "Acrobot-v1", "LunarLander-v3", "MountainCar-v0",
        "FrozenLake-v1",
    }  # fmt: skip


@pytest.mark.parametrize(
    "env",
    [
        *sorted(ENTRIES.keys() - {"default", "atari", "LunarLander-v3"}),
        pytest.param("LunarLander-v3", marks=needs_box2d),
        "BreakoutNoFrameskip-v4",
        "CliffWalking-v1",
    ],
)
def test_every_entry_makes_a_model_and_trains(env):
    """Just beyond its warm-up."""
    kwargs = {"n_timesteps": 60, "log_interval": -2, "eval_freq": -1, "verbose": 0, "device": "cpu"}
    experiment = ExperimentManager(argparse.Namespace(), "rainbow", env, "logs", seed=0, hyperparams={
        "learning_starts": 30, "buffer_size": 2000}, **kwargs)  # fmt: skip
    model, saved = experiment.setup_experiment()
    experiment.learn(model)
    assert model._n_updates > 0
    assert isinstance(model, RainbowDQN)
    entry = ENTRIES[env] if env in ENTRIES else ENTRIES["atari" if "NoFrameskip" in env else "default"]
    assert {name: saved[name] for name in entry if name not in ("learning_starts", "buffer_size", "learning_rate")} == {
        name: value for name, value in entry.items() if name not in ("learning_starts", "buffer_size", "learning_rate")
    }


def test_the_atari_entry_is_the_published_one():
    entry = ENTRIES["atari"]
    model = RainbowDQN("MlpPolicy", "CartPole-v1")
    for name in ("buffer_size", "learning_rate", "learning_starts", "batch_size", "gamma", "n_steps",
                 "gradient_steps", "target_update_interval", "prioritized_replay_alpha",
                 "prioritized_replay_beta0"):  # fmt: skip
        assert entry[name] == getattr(model, name), name
    assert entry["train_freq"] == model.train_freq.frequency == 4
    network = eval(entry["policy_kwargs"])
    assert {name: model.policy.rainbow_kwargs[name] for name in network} == network


def test_the_pong_entry_names_its_convolutions_by_a_string(zoo):
    policy_kwargs = eval(ENTRIES["PongNoFrameskip-v4"]["policy_kwargs"])
    assert policy_kwargs["features_extractor_class"] == "sb3_rainbow.networks.DataEfficientConv"
    train(zoo, "-n", "80", "-params", *QUICK, env="PongNoFrameskip-v4")
    model = RainbowDQN.load("logs/rainbow/PongNoFrameskip-v4_1/PongNoFrameskip-v4.zip")
    assert isinstance(model.q_net.features_extractor, DataEfficientConv)


def test_train_then_continue_then_enjoy(zoo, capsys):
    train(zoo, "-n", "300", "--save-replay-buffer", "-params", *QUICK)
    folder = Path("logs/rainbow/CartPole-v1_1")
    assert (folder / "replay_buffer.pkl").is_file()
    assert (folder / "CartPole-v1" / "config.yml").is_file()
    train(zoo, "-n", "200", "-i", str(folder / "CartPole-v1.zip"), "-params", *QUICK)
    assert "Loading replay buffer" in capsys.readouterr().out
    zoo(rl_zoo3.enjoy.enjoy, "--algo", "rainbow", "--env", "CartPole-v1", "-f", "logs", "--no-render", "-n", "600")
    assert "Mean reward" in capsys.readouterr().out


def test_the_full_zoo_of_flags(zoo, tmp_path):
    train(zoo, "-n", "400", "--eval-freq", "150", "--eval-episodes", "1", "--n-eval-envs", "2", "--save-freq", "200",
          "-tb", "tb", "--vec-env", "subproc", "-params", *QUICK, "n_envs:2", "noisy:False", "n_steps:1",
          "policy_kwargs:dict(net_arch=[8],n_atoms=11)", "-uuid")  # fmt: skip
    (folder,) = Path("logs/rainbow").iterdir()
    assert (folder / "best_model.zip").is_file()
    assert (folder / "evaluations.npz").is_file()
    model = RainbowDQN.load(next(folder.glob("rl_model_*_steps.zip")))
    assert (model.noisy, model.n_steps, model.q_net.head.size) == (False, 1, 11)
    assert list(Path("tb").rglob("events.out.tfevents*"))


# Search


def fixed_trial(seed=0):
    return optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed)).ask()


@pytest.mark.parametrize("seed", range(20))
def test_what_is_sampled_can_be_made_and_is_complete_from_the_trial_alone(seed):
    trial = fixed_trial(seed=seed)
    sampled = sample_rainbow_params(trial, 2, 1, {"using_her_replay_buffer": False, "her_kwargs": {}})
    assert convert_rainbow_params(trial.params) == sampled
    assert {"net_arch", "sigma_init", "v_min", "v_max", "n_atoms"} == sampled["policy_kwargs"].keys()
    model = RainbowDQN("MlpPolicy", "CartPole-v1", **sampled, buffer_size=1000, learning_starts=0)
    model.learn(20)
    assert model._n_updates > 0
    assert model.gamma == trial.user_attrs["gamma"]
    assert model.batch_size == trial.user_attrs["batch_size"]


def test_a_search_with_hindsight_replay_leaves_out_what_has_no_effect_there():
    """The file has n_steps and prioritized_replay then."""
    trial = fixed_trial()
    sampled = sample_rainbow_params(trial, 2, 1, {"using_her_replay_buffer": True, "her_kwargs": {}})
    assert convert_rainbow_params(trial.params) == sampled
    assert not {"n_steps", "prioritized_replay_alpha"} & sampled.keys()
    with warnings.catch_warnings(action="error"):
        RainbowDQN("MultiInputPolicy", BitFlippingEnv(), **sampled, buffer_size=1000, learning_starts=100,
                   replay_buffer_class=HerReplayBuffer, n_steps=1, prioritized_replay=False)  # fmt: skip


def test_converting_leaves_the_trials_parameters_as_they_are():
    trial = fixed_trial()
    sample_rainbow_params(trial, 2, 1, {"using_her_replay_buffer": False, "her_kwargs": {}})
    before = dict(trial.params)
    convert_rainbow_params(before)
    assert before == trial.params


def test_a_study_completes_and_its_trials_can_be_trained(zoo, capsys):
    """Also trial 0, which rl_zoo3 takes for none; two workers one after the other on one study."""
    search = ["-optimize", "--n-trials", "2", "--storage", "study.log", "--study-name", "cartpole", "-n", "300",
              "--n-startup-trials", "1", "--n-evaluations", "2", "--pruner", "none", "--no-optim-plots",
              "-params", *QUICK]  # fmt: skip
    train(zoo, *search)
    train(zoo, *search)
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend("study.log"))
    trials = optuna.load_study(study_name="cartpole", storage=storage).trials
    assert len(trials) == 4
    completed = [trial for trial in trials if trial.state == optuna.trial.TrialState.COMPLETE]
    assert len(completed) >= 2
    assert 0 in [trial.number for trial in completed]
    for number in (0, completed[-1].number):
        train(zoo, "--storage", "study.log", "--study-name", "cartpole", "--trial-id", str(number), "-n", "100",
              "-params", *QUICK)  # fmt: skip
        model = RainbowDQN.load(sorted(Path("logs/rainbow").glob("CartPole-v1_*/CartPole-v1.zip"))[-1])
        expected = convert_rainbow_params(trials[number].params)
        assert model.n_steps == expected["n_steps"]
        assert model.policy_kwargs == expected["policy_kwargs"]
        assert model.learning_rate(1) == pytest.approx(expected["learning_rate"])


# The entries from a shell


@pytest.fixture
def script(monkeypatch):
    """``python -m sb3_rainbow SCRIPT ...``, but for a process of its own: that would import everything once more."""
    monkeypatch.setattr(subprocess, "call", subprocess.call)  # main() replaces it

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["sb3_rainbow", *arguments])
        with warnings.catch_warnings():
            main()

    return call


def test_train_and_enjoy_scripts(script):
    trained = run(str(ROOT / "train.py"), "--algo", "rainbow", "--env", "CartPole-v1", "-n", "100", "-f", "logs", "-P",
                  "--eval-freq", "-1", "-params", *QUICK)  # fmt: skip
    assert trained.returncode == 0, trained.stderr
    assert "100%" in trained.stdout + trained.stderr  # the progress bar
    game = "500"  # steps of the longest there is: an agent may be good by chance
    played = run(str(ROOT / "enjoy.py"), "--algo", "rainbow", "--env", "CartPole-v1", "-f", "logs", "--no-render",
                 "-n", game)  # fmt: skip
    assert played.returncode == 0, played.stderr
    assert "Episode Reward" in played.stdout

    script("record_video", "--algo", "rainbow", "--env", "CartPole-v1", "-f", "logs", "-n", "50", "-o", "videos",
           "--no-render")  # fmt: skip
    assert list(Path("videos").glob("*.mp4"))

    script("benchmark", "--log-dir", "logs", "--no-hub", "-n", game, "--benchmark-dir", "benchmark", "--test-mode",
           "--num-threads", "1")  # fmt: skip
    assert "rainbow" in Path("benchmark/benchmark.md").read_text()


@pytest.mark.parametrize(("algo", "package"), [("rainbow", "sb3_rainbow "), ("dqn", "rl_zoo3.")])
def test_model_cards_for_the_hub(algo, package, tmp_path, monkeypatch):
    monkeypatch.setattr(repocard, "metadata_save", repocard.metadata_save)  # put back afterwards
    _mend_push_to_hub()
    hub = runpy.run_module("rl_zoo3.push_to_hub")
    card, metadata = hub["generate_model_card"](algo, "RainbowDQN", "me", "CartPole-v1", 500.0, 0.0, {}, {})
    hub["save_model_card"](tmp_path, card, metadata)
    readme = (tmp_path / "README.md").read_text()
    assert "model-index" in readme
    assert "500.00 +/- 0.00" in readme
    assert set(re.findall(r"python -m (\w+\W)", readme)) == {package}
    assert ("pip install rl_zoo3 PATH_OF_A_CLONE" in readme) == (algo == "rainbow")


def test_the_extra_has_what_rl_zoos_plots_need():
    """It is written out there, as rliable cannot come along on each Python."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    wanted = {Requirement(line).name for line in metadata.requires("rl_zoo3") if 'extra == "plots"' in line}
    assert {"rliable", "scipy"} <= wanted <= {Requirement(line).name for line in extras["zoo"]}


@pytest.mark.parametrize(
    "name",
    ["push_to_hub", "load_from_hub", "record_training", "all_plots", "plot_from_file", "plot_train", "enjoy", "train"],
)
def test_every_script_of_rl_zoo3_starts(name, script, capsys):
    with pytest.raises(SystemExit) as stop:
        script(name, "--help")
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert "usage" in shown
    assert name != "plot_train" or "--exp-folder" in shown
    assert name in ("all_plots", "plot_from_file", "plot_train") or "rainbow" in shown


@pytest.mark.parametrize(
    ("command", "becomes"),
    [
        (["python", "-m", "rl_zoo3.record_video", "-n", "5"], ["-m", "sb3_rainbow", "record_video", "-n", "5"]),
        (["python", "enjoy.py", "--env", "A"], ["-m", "sb3_rainbow", "enjoy", "--env", "A"]),
    ],
)
def test_scripts_that_start_others_start_them_with_rainbow(command, becomes):
    """record_training and benchmark do."""
    started = _to_ourselves(lambda command: command)
    assert started(command) == [sys.executable, *becomes]
    assert started(["ffmpeg", "-i"]) == ["ffmpeg", "-i"]
    assert started("ls") == "ls"


@pytest.mark.parametrize("arguments", [[], ["no_such_script"], ["--algo"], ["os.path"], ["utils"], ["plots"]])
def test_a_script_that_rl_zoo3_does_not_have(arguments, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["sb3_rainbow", *arguments])
    with pytest.raises(SystemExit, match=r"SCRIPT|^rl_zoo3 has no script '"):  # Python prints it, and ends with 1
        main()


def test_help_names_scripts(script, capsys):
    script("--help")
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("usage", "SCRIPT", "train", "enjoy", "benchmark", "record_video"))


def test_the_wheel_holds_the_hyperparameters(tmp_path):
    """And nothing of an environment that lies in the checkout."""
    source = tmp_path / "source"
    for name in ("sb3_rainbow", "hyperparams"):
        shutil.copytree(ROOT / name, source / name)
        shutil.copytree(ROOT / name, source / "env" / "lib" / name)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    built = run("-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", str(tmp_path), str(source))
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        assert "sb3_rainbow/py.typed" in names
        assert not [name for name in names if name.startswith("env")]
        assert archive.read("sb3_rainbow/hyperparams/rainbow.yml") == hyperparams_file().read_bytes()
        archive.extractall(tmp_path / "installed")
    found = subprocess.run(
        [sys.executable, "-c", "from sb3_rainbow.zoo import hyperparams_file as f; print(f())"],
        cwd=tmp_path / "installed", capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert Path(found.stdout.strip()) == tmp_path / "installed" / "sb3_rainbow" / "hyperparams" / "rainbow.yml"
    assert np.char.endswith(names, ".py").sum() > 10


def test_ales_vector_environment_comes_from_a_hyperparameter_file(zoo):
    """For training, evaluation and enjoy alike, with Monitor's file where rl_zoo3 wants it."""
    entry = {
        name: value
        for name, value in ENTRIES["PongNoFrameskip-v4"].items()
        if name not in ("env_wrapper", "frame_stack")
    }
    entry |= {"n_envs": 2, "vec_env_wrapper": [{"sb3_rainbow.envs.replace_by_ale": {"noop_max": 5}}]}
    Path("fast.yml").write_text(yaml.safe_dump({"PongNoFrameskip-v4": entry}))
    train(zoo, "-n", "3000", "--hyperparams", "learning_starts:2990", "buffer_size:3000", "-conf", "fast.yml",
          "--eval-freq", "2999", "--eval-episodes", "1", "--n-eval-envs", "2", env="PongNoFrameskip-v4")  # fmt: skip
    folder = Path("logs/rainbow/PongNoFrameskip-v4_1")
    games = load_results(str(folder))
    assert len(games) >= 2
    assert games["l"].min() > 3000  # emulator frames of whole games
    assert np.load(folder / "evaluations.npz")["results"].shape == (1, 1)
    model = RainbowDQN.load(folder / "PongNoFrameskip-v4.zip", buffer_size=1)
    assert model.observation_space.shape == (4, 84, 84)
    zoo(
        rl_zoo3.enjoy.enjoy, "--algo", "rainbow", "--env", "PongNoFrameskip-v4", "-f", "logs", "-n", "30", "--no-render"
    )


def test_the_trained_agent_wins():
    model = RainbowDQN.load(ROOT / "trained_agents/rainbow/PongNoFrameskip-v4_1/PongNoFrameskip-v4.zip", buffer_size=1)
    score, _ = evaluate_policy(model, make_ale_vec_env("PongNoFrameskip-v4", 1, seed=0), n_eval_episodes=1)
    assert score >= 15
