"""Every combination of switches trains, saves, loads and predicts."""

import itertools
import warnings

import numpy as np
import pytest
import torch as th
from envs import Corridor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv

from sb3_rainbow import RainbowDQN

SWITCHES = ("double_q", "dueling", "noisy", "distributional", "n_steps", "prioritized_replay")
ALL = [dict(zip(SWITCHES, values, strict=True)) for values in itertools.product(*[(False, True)] * 6)]
POLICIES = {"vector": "MlpPolicy", "image": "CnnPolicy", "dict": "MultiInputPolicy"}


def covering_pairs():
    """Few of the combinations, in which each pair of switches takes all four pairs of values."""

    def pairs(combination):
        return set(itertools.combinations(enumerate(combination.values()), 2))

    chosen, missing = [], set().union(*(pairs(combination) for combination in ALL))
    while missing:
        best = max(ALL, key=lambda combination: len(pairs(combination) & missing))
        chosen.append(best)
        missing -= pairs(best)
    return chosen


def name(combination):
    return "+".join(switch for switch, on in combination.items() if on) or "none"


def assert_it_trains_saves_loads_and_predicts(env, observation, combination, path):
    kwargs = {**combination, "n_steps": 3 if combination["n_steps"] else 1}
    small = {"net_arch": [8]} if observation != "dict" else {
        "net_arch": [8], "features_extractor_kwargs": {"cnn_output_dim": 8}
    }  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = RainbowDQN(POLICIES[observation], env, buffer_size=64, learning_starts=8, batch_size=4, train_freq=2,
                           target_update_interval=8, policy_kwargs=small, seed=0, **kwargs)  # fmt: skip
        before = model.policy.parameters_to_vector()
        model.learn(24)
        assert model._n_updates > 0
        after = model.policy.parameters_to_vector()
        assert np.isfinite(after).all()
        assert not np.array_equal(before, after)
        model.save(path)
        loaded = RainbowDQN.load(path, env=env)
    assert loaded.n_steps == kwargs["n_steps"]
    assert all(getattr(loaded, switch) == combination[switch] for switch in SWITCHES if switch != "n_steps")
    assert th.equal(th.as_tensor(after), th.as_tensor(loaded.policy.parameters_to_vector()))
    obs = env.reset()
    actions, _ = model.predict(obs, deterministic=True)
    assert actions.shape == (env.num_envs,)
    np.testing.assert_array_equal(actions, loaded.predict(obs, deterministic=True)[0])
    explored, _ = loaded.predict(obs, deterministic=False)
    assert explored.shape == (env.num_envs,)
    loaded.learn(12, reset_num_timesteps=False)


@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("observation", POLICIES)
@pytest.mark.parametrize("combination", ALL, ids=name)
def test_all_64_combinations(combination, observation, n_envs, tmp_path):
    env = DummyVecEnv([lambda: Corridor(observation=observation)] * n_envs)
    assert_it_trains_saves_loads_and_predicts(env, observation, combination, tmp_path / "model")


@pytest.mark.parametrize("observation", POLICIES)
def test_a_covering_set_in_processes(observation, tmp_path):
    env = SubprocVecEnv([lambda: Corridor(observation=observation)] * 2)
    try:
        for combination in covering_pairs():
            assert_it_trains_saves_loads_and_predicts(env, observation, combination, tmp_path / "model")
    finally:
        env.close()


def test_the_covering_set_covers_all_pairs_of_values():
    chosen = covering_pairs()
    assert len(chosen) < 12
    for first, second in itertools.combinations(SWITCHES, 2):
        assert {(combination[first], combination[second]) for combination in chosen} == set(
            itertools.product((False, True), repeat=2)
        )
