"""Files: what is in them, what happens to them in a crash, and what is said of bad ones."""

import io
import os
import pickle
import shutil
import stat
import tempfile
import warnings
import zipfile
from unittest.mock import DEFAULT, patch

import numpy as np
import pytest
import torch as th
from envs import Corridor
from models import SMALL, equal_weights
from stable_baselines3 import DQN, PPO, HerReplayBuffer
from stable_baselines3.common.buffers import NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import BitFlippingEnv

from sb3_rainbow import RainbowDQN, RainbowReplayBuffer


@pytest.fixture(scope="module")
def model():
    return RainbowDQN("MlpPolicy", make_vec_env("CartPole-v1", 2), **SMALL).learn(200)


def test_all_that_training_needs_is_saved(model, tmp_path):
    model.save(tmp_path / "model.zip")
    loaded = RainbowDQN.load(tmp_path / "model")
    assert equal_weights(model, loaded)
    assert loaded.prioritized_replay_beta == model.prioritized_replay_beta == 1.0
    assert loaded.num_timesteps == 200
    assert loaded.replay_buffer_class is RainbowReplayBuffer
    moments = loaded.policy.optimizer.state_dict()["state"]
    assert moments.keys() == model.policy.optimizer.state_dict()["state"].keys() != set()


class TakesNames(RainbowDQN):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        assert kwargs["policy"] is not None  # as SB3 gives both
        assert "env" in kwargs


def test_a_subclass_may_take_what_it_likes_as_sb3_lets_it(tmp_path):
    TakesNames(policy="MlpPolicy", env="CartPole-v1").save(tmp_path / "model")
    assert TakesNames.load(tmp_path / "model", gamma=0.9).gamma == 0.9


def test_file_objects(model):
    file = io.BytesIO()
    model.save(file)
    file.seek(0)
    assert equal_weights(model, RainbowDQN.load(file))


def test_training_from_a_saved_model_and_buffer_goes_on_as_if_nothing_had_happened(tmp_path):
    """The same weights as without saving, from the same random numbers."""

    def make():
        return RainbowDQN("MlpPolicy", Corridor(length=1000), **{**SMALL, "seed": None, "train_freq": 1})

    def go_on(model):
        np.random.seed(0)
        th.manual_seed(0)
        model.set_logger(other.logger)
        model.train(20, batch_size=16)
        return model

    other = make().learn(200)
    other.save(tmp_path / "model")
    other.save_replay_buffer(tmp_path / "buffer")
    loaded = RainbowDQN.load(tmp_path / "model", env=Corridor(length=1000))
    loaded.load_replay_buffer(tmp_path / "buffer", truncate_last_traj=False)
    assert loaded.replay_buffer.sampler.max_priority == other.replay_buffer.sampler.max_priority
    assert equal_weights(go_on(other), go_on(loaded))
    np.testing.assert_array_equal(
        other.replay_buffer.sampler.tree[np.arange(500)], loaded.replay_buffer.sampler.tree[np.arange(500)]
    )


def test_a_loaded_replay_buffer_is_the_saved_one(model, tmp_path):
    """No window will run from it into what comes next, but that is for the next transition to see to."""
    model.save_replay_buffer(tmp_path / "buffer")
    loaded = RainbowDQN("MlpPolicy", make_vec_env("CartPole-v1", 2), **SMALL)
    loaded.load_replay_buffer(tmp_path / "buffer")
    for name in ("observations", "next_observations", "actions", "rewards", "dones", "timeouts"):
        np.testing.assert_array_equal(getattr(loaded.replay_buffer, name), getattr(model.replay_buffer, name))


def test_play_only_is_small_and_plays(model, tmp_path):
    model.save(tmp_path / "all")
    model.save(tmp_path / "play", play_only=True)
    assert (tmp_path / "play.zip").stat().st_size < 0.6 * (tmp_path / "all.zip").stat().st_size
    with zipfile.ZipFile(tmp_path / "play.zip") as archive:
        assert "policy.optimizer.pth" not in archive.namelist()
    loaded = RainbowDQN.load(tmp_path / "play")
    assert model._last_obs is not None
    assert loaded._last_obs is None
    obs = np.random.default_rng(0).standard_normal((32, 4)).astype(np.float32)
    np.testing.assert_array_equal(loaded.predict(obs, deterministic=True)[0], model.predict(obs, deterministic=True)[0])
    assert set(loaded.get_parameters()) == {"policy", "policy.optimizer"}
    # The next file is whole again, and so is one that the loaded model writes
    model.save(tmp_path / "again")
    loaded.save(tmp_path / "loaded")
    assert set(RainbowDQN.load(tmp_path / "again").get_parameters()) == {"policy", "policy.optimizer"}
    with zipfile.ZipFile(tmp_path / "loaded.zip") as archive:
        assert "policy.optimizer.pth" in archive.namelist()
    assert th.equal(
        th.nn.utils.parameters_to_vector(loaded.q_net.parameters()),
        th.nn.utils.parameters_to_vector(loaded.q_net_target.parameters()),
    )
    loaded = RainbowDQN.load(tmp_path / "play", env=make_vec_env("CartPole-v1", 2)).learn(100)
    assert set(loaded.get_parameters()) == {"policy", "policy.optimizer"}


def test_play_only_is_a_switch(model, tmp_path):
    with pytest.raises(ValueError, match="play_only='False' must be True or False"):
        model.save(tmp_path / "model", play_only="False")


def test_play_only_parameters_bring_no_optimizer_state_of_other_weights(tmp_path):
    model = RainbowDQN("MlpPolicy", "CartPole-v1", **SMALL).learn(100)
    model.save(tmp_path / "play", play_only=True)
    assert model.policy.optimizer.state_dict()["state"]
    model.set_parameters(tmp_path / "play.zip")
    assert model.policy.optimizer.state_dict()["state"] == {}


def test_weights_of_the_online_network_alone_leave_the_target_network_as_it_is():
    """As in SB3, where the match need not be exact."""
    model = RainbowDQN("MlpPolicy", "CartPole-v1", **SMALL)
    online = {name: value + 1 for name, value in model.policy.state_dict().items() if name.startswith("q_net.")}
    before = {name: value.clone() for name, value in model.q_net_target.state_dict().items()}
    model.set_parameters({"policy": online}, exact_match=False)
    for name, value in model.q_net_target.state_dict().items():
        assert th.equal(value, before[name])
        assert th.equal(model.q_net.state_dict()[name], before[name] + 1)


def test_play_only_parameters_can_be_set_too(model, tmp_path):
    model.save(tmp_path / "play", play_only=True)
    other = RainbowDQN("MlpPolicy", "CartPole-v1", **{**SMALL, "seed": 1})
    other.set_parameters(tmp_path / "play")
    assert th.equal(other.q_net.q_net[0].weight_mu, model.q_net.q_net[0].weight_mu)


def test_parameters_can_be_set_in_part(model):
    """As in SB3: what is not given stays, and nothing is taken for a model that only plays."""
    other = RainbowDQN("MlpPolicy", "CartPole-v1", **{**SMALL, "seed": 1})
    before = {name: value.clone() for name, value in other.policy.state_dict().items()}
    name = "q_net.q_net.0.weight_mu"
    other.set_parameters({"policy": {name: before[name] + 1}}, exact_match=False)
    after = other.policy.state_dict()
    assert {key for key in after if not th.equal(after[key], before[key])} == {name}
    online = {key: value for key, value in model.policy.state_dict().items() if key.startswith("q_net.")}
    optimizer = other.policy.optimizer.state_dict()
    optimizer["param_groups"][0]["eps"] = 0.125
    other.set_parameters({"policy": online, "policy.optimizer": optimizer}, exact_match=False)
    assert other.policy.optimizer.param_groups[0]["eps"] == 0.125
    in_target = "q_net_target.q_net.0.weight_mu"
    assert th.equal(other.policy.state_dict()[in_target], before[in_target])
    with pytest.raises(RuntimeError, match="Missing key"):
        other.set_parameters({"policy": {name: before[name]}, "policy.optimizer": optimizer})


def test_a_model_loads_to_play_with_any_buffer_size(model, tmp_path):
    model.save(tmp_path / "model")
    loaded = RainbowDQN.load(tmp_path / "model", buffer_size=1)
    assert loaded.predict(np.zeros(4, np.float32))[0] in (0, 1)


@pytest.mark.parametrize("name", ["dueling", "noisy", "distributional"])
def test_a_model_is_not_loaded_into_another_kind_of_network(model, tmp_path, name):
    model.save(tmp_path / "model.zip")
    for arguments in ({name: False}, {"custom_objects": {name: False}}):
        with pytest.raises(ValueError, match=rf"{name}=False would need other weights.*model\.zip.*as it was saved"):
            RainbowDQN.load(tmp_path / "model.zip", **arguments)


def test_policy_kwargs_are_compared_on_load(model, tmp_path):
    model.save(tmp_path / "model")
    RainbowDQN.load(tmp_path / "model", policy_kwargs={"net_arch": [16]})
    with pytest.raises(ValueError, match="do not equal the stored policy kwargs"):
        RainbowDQN.load(tmp_path / "model", policy_kwargs={"net_arch": [17]})


@pytest.mark.parametrize("what", ["save", "save_replay_buffer"])
def test_a_crash_while_saving_leaves_the_older_file_and_nothing_else(model, tmp_path, monkeypatch, what):
    path = tmp_path / "file.zip"
    getattr(model, what)(path)
    before = path.read_bytes()

    def crash(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(th, "save", crash)
    monkeypatch.setattr(pickle, "dump", crash)
    with pytest.raises(KeyboardInterrupt):
        getattr(model, what)(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    monkeypatch.undo()
    getattr(model, what)(path)
    assert list(tmp_path.iterdir()) == [path]


needs_modes = pytest.mark.skipif(os.name == "nt", reason="files have no such modes there")


@needs_modes
def test_a_file_for_some_eyes_only_stays_so(model, tmp_path):
    path = tmp_path / "model.zip"
    model.save(path)
    path.chmod(0o600)
    copy_mode, modes = shutil.copymode, []

    def look(source, target):
        modes.append(stat.S_IMODE(target.stat().st_mode))
        copy_mode(source, target)

    with patch("shutil.copymode", look):
        model.save(path)
    assert [*modes, stat.S_IMODE(path.stat().st_mode)] == [0o600, 0o600]


def test_a_file_that_cannot_be_replaced_is_written_into(model, tmp_path):
    """Such as one that is mounted by itself into a container."""
    path = tmp_path / "model.zip"
    with patch("os.replace", side_effect=OSError(16, "Device or resource busy")):
        model.save(path)
        assert list(tmp_path.iterdir()) == [path]
        assert equal_weights(model, RainbowDQN.load(path))


@pytest.mark.parametrize("refusals", [2, 100])
def test_a_file_that_somebody_reads_is_replaced_later_or_written_into(refusals, model, tmp_path, monkeypatch):
    """Windows does not replace it meanwhile."""
    monkeypatch.setattr("sb3_rainbow.files._TRIES", 30)
    path = tmp_path / "model.zip"
    model.save(path)
    old = path.stat().st_ino
    model.num_timesteps = 77
    results = [*[PermissionError(13, "Access is denied")] * refusals, DEFAULT]
    with patch("os.replace", wraps=os.replace, side_effect=results), patch("time.sleep") as sleep:
        model.save(path)
    assert (path.stat().st_ino == old) == (refusals == 100)
    assert sleep.call_count == min(refusals, 30)
    assert list(tmp_path.iterdir()) == [path]
    assert RainbowDQN.load(path).num_timesteps == 77


def test_a_copy_that_cannot_be_taken_away_ends_no_training(model, tmp_path):
    path = tmp_path / "model.zip"
    with patch("os.replace", side_effect=OSError(16, "busy")), patch("pathlib.Path.unlink", side_effect=OSError):
        model.save(path)
    assert equal_weights(model, RainbowDQN.load(path))


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """Where temporary files go, as in a folder that may not be written."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "elsewhere"))
    monkeypatch.setattr(os, "access", lambda *_: False)
    (tmp_path / "elsewhere").mkdir()
    return tmp_path / "elsewhere"


def test_a_file_in_a_folder_that_may_not_be_written_is_written_into(elsewhere, model, tmp_path):
    path = tmp_path / "model.zip"
    with patch("shutil.copyfile", side_effect=AssertionError):  # a new one is not begun elsewhere
        model.save(path)
    old, content = path.stat().st_ino, path.read_bytes()
    model.num_timesteps = 77
    with patch("os.replace", side_effect=AssertionError):
        with patch.object(th, "save", side_effect=MemoryError), pytest.raises(MemoryError):
            model.save(path)
        assert path.read_bytes() == content
        model.save(path)
    assert path.stat().st_ino == old
    assert {*tmp_path.iterdir()} == {path, elsewhere}
    assert not any(elsewhere.iterdir())
    assert RainbowDQN.load(path).num_timesteps == 77


@needs_modes
def test_a_copy_elsewhere_is_for_our_eyes_only(elsewhere, model, tmp_path):
    """The folder may be what keeps the file from others."""
    path = tmp_path / "model.zip"
    model.save(path)
    path.chmod(0o644)
    with (
        patch("shutil.copyfile", side_effect=OSError(28, "No space left on device")),
        pytest.raises(OSError, match="left"),
    ):
        model.save(path)
    (kept,) = elsewhere.iterdir()
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_a_file_is_written_into_at_once_where_there_is_nowhere_else(elsewhere, model, tmp_path):
    path = tmp_path / "model.zip"
    model.save(path)
    model.num_timesteps = 77
    with patch("tempfile.gettempdir", side_effect=FileNotFoundError):
        model.save(path)
    assert RainbowDQN.load(path).num_timesteps == 77


@pytest.mark.parametrize("error", [OSError(5, "I/O"), OSError(13, "denied"), OSError(16, "busy"), KeyboardInterrupt()])
def test_what_cannot_have_its_name_is_kept_and_told_of(error, model, tmp_path):
    path = tmp_path / "model.zip"
    model.save(path)
    move = patch("os.replace", side_effect=error), patch("shutil.copyfile", side_effect=error)
    with move[0], move[1] as copyfile, patch("time.sleep"), pytest.raises(type(error)) as raised:
        model.save(path)
    assert copyfile.called == (getattr(error, "errno", None) in (13, 16))
    (kept,) = (file for file in tmp_path.iterdir() if file != path)
    assert str(kept) in raised.value.__notes__[0]
    assert equal_weights(model, RainbowDQN.load(kept))
    with patch.object(th, "save", side_effect=MemoryError), pytest.raises(MemoryError):
        model.save(path)
    assert {*tmp_path.iterdir()} == {path, kept}


def test_a_name_of_255_bytes(model, tmp_path):
    path = tmp_path / ("ä" * 124 + "abc.zip")
    model.save(path)
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_system_without_permissions(model, tmp_path):
    path = tmp_path / "model.zip"
    path.touch()
    with patch("os.chmod", side_effect=PermissionError):
        model.save(path)
    assert equal_weights(model, RainbowDQN.load(path))


def test_a_link_stays_a_link(model, tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link.zip").symlink_to(tmp_path / "real" / "model.zip")
    model.save(tmp_path / "link.zip")
    assert (tmp_path / "link.zip").is_symlink()
    assert equal_weights(model, RainbowDQN.load(tmp_path / "real" / "model.zip"))


def test_missing_folders_and_suffixes_are_added(model, tmp_path):
    model.save(tmp_path / "new" / "folder" / "model")
    model.save_replay_buffer(str(tmp_path / "new" / "buffer"))
    assert {path.name for path in (tmp_path / "new").rglob("*.*")} == {"model.zip", "buffer.pkl"}


# Bad files


def test_a_truncated_model(model, tmp_path):
    model.save(tmp_path / "model")
    data = (tmp_path / "model.zip").read_bytes()
    (tmp_path / "model.zip").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match="model is truncated, or"):
        RainbowDQN.load(tmp_path / "model")


def test_a_damaged_model(model, tmp_path):
    model.save(tmp_path / "model.zip")
    data = bytearray((tmp_path / "model.zip").read_bytes())
    middle = len(data) // 2
    data[middle : middle + 64] = bytes(64 * [0xAA])
    (tmp_path / "model.zip").write_bytes(data)
    with pytest.raises(ValueError, match="damaged"):
        RainbowDQN.load(tmp_path / "model.zip")


def test_a_model_that_says_more_of_itself_than_there_is(model):
    file = io.BytesIO()
    model.save(file)
    entry = file.getvalue().rindex(b"PK\x01\x02", 0, file.getvalue().rindex(b"policy.pth"))
    file.getbuffer()[entry + 20 : entry + 28] = 2 * (2**30).to_bytes(4, "little")  # sizes, packed and unpacked
    with pytest.raises(ValueError, match="truncated"):
        RainbowDQN.load(file)


@pytest.mark.parametrize("offset", [60, 200, 1000])
def test_a_damaged_model_that_was_packed_again(offset, model):
    """SB3 does not compress its files, but others may."""
    saved, packed = io.BytesIO(), io.BytesIO()
    model.save(saved)
    with zipfile.ZipFile(saved) as archive, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as other:
        for name in archive.namelist():
            other.writestr(name, archive.read(name))
        start = other.getinfo("policy.pth").header_offset + offset
    assert equal_weights(model, RainbowDQN.load(packed))
    packed.getbuffer()[start : start + 64] = bytes(64 * [0xAA])
    with pytest.raises(ValueError, match=r"damaged|truncated"):
        RainbowDQN.load(packed)


@pytest.mark.parametrize(("algorithm", "policy"), [(PPO, "common.policies"), (DQN, "dqn.policies")])
def test_a_model_of_another_algorithm(algorithm, policy, tmp_path):
    algorithm("MlpPolicy", "CartPole-v1").save(tmp_path / "other")
    with pytest.raises(ValueError, match=rf"not saved by RainbowDQN but by .*stable_baselines3.{policy}"):
        RainbowDQN.load(tmp_path / "other")


def test_a_zip_of_something_else(tmp_path):
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(ValueError, match=r"other\.zip is truncated, or was not saved by RainbowDQN"):
        RainbowDQN.load(tmp_path / "other.zip")


def test_a_missing_model(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.zip"):
        RainbowDQN.load(tmp_path / "nothing")


def test_a_missing_replay_buffer(model, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no replay buffer at .*nothing: save one with"):
        model.load_replay_buffer(tmp_path / "nothing")


def test_a_truncated_replay_buffer(model, tmp_path):
    before = model.replay_buffer
    model.save_replay_buffer(tmp_path / "buffer.pkl")
    data = (tmp_path / "buffer.pkl").read_bytes()
    (tmp_path / "buffer.pkl").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match="truncated, or holds no replay buffer"):
        model.load_replay_buffer(tmp_path / "buffer.pkl")
    assert model.replay_buffer is before


@pytest.mark.parametrize("content", [b"", b"hello", pickle.dumps({"a": 1}), pickle.dumps(np.zeros(3))])
def test_a_file_without_a_replay_buffer(model, tmp_path, content):
    (tmp_path / "buffer.pkl").write_bytes(content)
    before = model.replay_buffer
    with pytest.raises(ValueError, match="holds no replay buffer"):
        model.load_replay_buffer(tmp_path / "buffer.pkl")
    assert model.replay_buffer is before


@pytest.mark.parametrize(
    ("env", "n_envs", "kwargs", "named"),
    [
        ("CartPole-v1", 1, {}, "number of envs 2, but this model has 1"),
        ("Acrobot-v1", 2, {}, "observation space Box"),
        ("CartPole-v1", 2, {"prioritized_replay": False}, "prioritized_replay True, but this model has False"),
        ("CartPole-v1", 2, {"prioritized_replay_alpha": 0.7}, "prioritized_replay_alpha 0.5, but this model has 0.7"),
    ],
)
def test_a_replay_buffer_that_does_not_fit(model, tmp_path, env, n_envs, kwargs, named):
    model.save_replay_buffer(tmp_path / "buffer")
    other = RainbowDQN("MlpPolicy", make_vec_env(env, n_envs), **{**SMALL, **kwargs})
    before = other.replay_buffer
    with pytest.raises(ValueError, match=named):
        other.load_replay_buffer(tmp_path / "buffer")
    assert other.replay_buffer is before


@pytest.mark.parametrize(
    ("kwargs", "named"),
    [
        ({"prioritized_replay": False}, "prioritized_replay True, but this model has False"),
        ({"prioritized_replay_alpha": 0.7}, "prioritized_replay_alpha 0.5, but this model has 0.7"),
    ],
)
def test_a_replay_buffer_in_the_models_file_that_does_not_fit(model, tmp_path, kwargs, named):
    model.save(tmp_path / "model", include=["replay_buffer"])
    refusal = f"^the replay buffer that was saved with the model has the {named}: .*replay_buffer=None"
    with pytest.raises(ValueError, match=refusal):
        RainbowDQN.load(tmp_path / "model", model.env, **kwargs)
    assert RainbowDQN.load(tmp_path / "model", model.env, replay_buffer=None, **kwargs).replay_buffer.size() == 0
    loaded = RainbowDQN.load(tmp_path / "model", model.env, n_steps=5, buffer_size=1)
    assert loaded.replay_buffer.size() == model.replay_buffer.size() == 100
    same = (loaded.replay_buffer.sampler.tree[np.arange(200)], model.replay_buffer.sampler.tree[np.arange(200)])
    np.testing.assert_array_equal(*same)


@pytest.mark.parametrize(
    "kwargs", [{}, {"replay_buffer_class": ReplayBuffer, "n_steps": 1, "prioritized_replay": False}]
)
def test_a_buffer_in_the_models_file_comes_to_the_models_device(tmp_path, kwargs):
    model = RainbowDQN("MlpPolicy", "CartPole-v1", **SMALL, **kwargs).learn(60)
    model.replay_buffer.device = th.device("cuda")  # as where it was trained
    model.save(tmp_path / "model", include=["replay_buffer"])
    loaded = RainbowDQN.load(tmp_path / "model", model.env, device="cpu")
    assert loaded.replay_buffer.device == th.device("cpu")
    loaded.learn(60, reset_num_timesteps=False)


def test_a_model_with_its_buffer_plays_with_another_number_of_envs_but_does_not_train(model, tmp_path):
    model.save(tmp_path / "model", include=["replay_buffer"])
    env = make_vec_env("CartPole-v1", 1)
    loaded = RainbowDQN.load(tmp_path / "model", env)
    assert loaded.predict(env.reset())[0].shape == (1,)
    with pytest.raises(
        ValueError, match=r"number of envs 2, but this model has 1: pass replay_buffer=None to load\(\)"
    ):
        loaded.learn(60)
    RainbowDQN.load(tmp_path / "model", env, replay_buffer=None).learn(60)


class UniformBuffer(RainbowReplayBuffer):
    def __init__(self, buffer_size, observation_space, action_space, device="auto", n_envs=1,
                 optimize_memory_usage=False):  # fmt: skip
        super().__init__(buffer_size, observation_space, action_space, device, n_envs, prioritized_replay=False)


class SteepBuffer(RainbowReplayBuffer):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs | {"prioritized_replay_alpha": 0.9})


@pytest.mark.parametrize(
    ("buffer_class", "kwargs", "idle"),
    [
        (UniformBuffer, {}, "prioritized_replay=True"),
        (SteepBuffer, {}, None),
        (SteepBuffer, {"prioritized_replay_alpha": 0.7}, "prioritized_replay_alpha=0.7"),
    ],
)
def test_a_buffer_that_chooses_for_itself_is_loaded_by_a_model_like_its_own(tmp_path, buffer_class, kwargs, idle):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = RainbowDQN("MlpPolicy", "CartPole-v1", **SMALL, replay_buffer_class=buffer_class, **kwargs).learn(60)
    told = [str(warning.message).split(" will have no effect")[0] for warning in caught if "effect" in str(warning)]
    assert told == ([idle] if idle else [])
    model.save_replay_buffer(tmp_path / "buffer")
    model.load_replay_buffer(tmp_path / "buffer")
    model.save(tmp_path / "model", include=["replay_buffer"])
    for other in (model, RainbowDQN.load(tmp_path / "model", model.env)):
        assert type(other.replay_buffer) is buffer_class
        assert other.replay_buffer.size() == 60


def test_hindsight_replay_without_an_env_says_so(tmp_path):
    env = BitFlippingEnv(n_bits=4, continuous=False)
    kwargs = {**SMALL, "replay_buffer_class": HerReplayBuffer, "n_steps": 1, "prioritized_replay": False}
    model = RainbowDQN("MultiInputPolicy", env, **kwargs)
    model.learn(60)
    model.save_replay_buffer(tmp_path / "buffer")
    model.env = None
    with pytest.raises(ValueError, match="You must pass an environment"):
        model.load_replay_buffer(tmp_path / "buffer")


@pytest.mark.parametrize("buffer_class", [RainbowReplayBuffer, NStepReplayBuffer])
def test_windows_of_a_loaded_buffer_are_as_long_as_the_models(buffer_class, tmp_path):
    kwargs = {**SMALL, "replay_buffer_class": buffer_class, "prioritized_replay": False}
    model = RainbowDQN("MlpPolicy", make_vec_env("CartPole-v1", 2), **kwargs).learn(100)
    model.save_replay_buffer(tmp_path / "buffer")
    other = RainbowDQN("MlpPolicy", make_vec_env("CartPole-v1", 2), **kwargs, n_steps=5, gamma=0.9)
    other.load_replay_buffer(tmp_path / "buffer")
    assert (other.replay_buffer.n_steps, other.replay_buffer.gamma) == (5, 0.9)


def test_a_buffer_of_another_class_can_be_loaded(tmp_path):
    model = RainbowDQN(
        "MlpPolicy", "CartPole-v1", **SMALL, replay_buffer_class=ReplayBuffer, n_steps=1, prioritized_replay=False
    ).learn(60)
    model.save_replay_buffer(tmp_path / "buffer")
    model.load_replay_buffer(tmp_path / "buffer")
    assert type(model.replay_buffer) is ReplayBuffer
