"""ALE's vector environment, beside SB3's wrappers of single games."""

import copy
import sys
from unittest.mock import Mock

import gymnasium as gym
import numpy as np
import psutil
import pytest
from ale_py.vector_env import AtariVectorEnv
from gymnasium import spaces
from stable_baselines3.common.atari_wrappers import (
    AtariWrapper,
    ClipRewardEnv,
    EpisodicLifeEnv,
    MaxAndSkipEnv,
    WarpFrame,
)
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor, ResultsWriter, load_results
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecCheckNan, VecFrameStack

from sb3_rainbow import RainbowDQN
from sb3_rainbow.envs import AleVecEnv, make_ale_vec_env, replace_by_ale
from sb3_rainbow.frames import FrameStorage
from sb3_rainbow.networks import DataEfficientConv

PONG, BREAKOUT = "PongNoFrameskip-v4", "BreakoutNoFrameskip-v4"


class FireForOneFrame(gym.Wrapper):
    """As ALE does it; FireResetEnv presses FIRE and the next action for four frames each."""

    def reset(self, **kwargs):
        obs, info = self.env.reset(**kwargs)
        if "FIRE" in self.unwrapped.get_action_meanings():
            obs, _, _, _, info = self.env.step(1)
        return obs, info


class LostLife(EpisodicLifeEnv):
    """Goes on from a lost life as it is; EpisodicLifeEnv does a no-op first."""

    def step(self, action):
        obs, reward, terminated, truncated, info = super().step(action)
        self.last = obs, info
        return obs, reward, terminated, truncated, info

    def reset(self, **kwargs):
        if self.was_real_done:
            return super().reset(**kwargs)
        self.lives = self.unwrapped.ale.lives()
        return self.last


def sb3s_wrappers(game, is_life_terminal=True, frame_skip=4, size=84):
    """AtariWrapper without no-ops, but for the two differences above."""

    def make():
        env = MaxAndSkipEnv(FireForOneFrame(Monitor(gym.make(game))), frame_skip)
        return WarpFrame(LostLife(env) if is_life_terminal else env, size, size)

    return VecFrameStack(DummyVecEnv([make]), 4)


OTHERWISE = {"terminal_on_life_loss": False, "frame_skip": 3, "screen_size": 60}
# How much the mean of a frame of 0 to 255 may differ: see docs/envs.md
FLICKER = {"Alien": 2.5, "Assault": 0.3, "Asterix": 0.1, "BeamRider": 2, "Boxing": 0, "Breakout": 0, "Enduro": 0.4}
FLICKER |= {"Freeway": 0.1, "MsPacman": 0.2, "Pong": 0.1, "Qbert": 0.1, "Seaquest": 0.1, "SpaceInvaders": 0}


EXACT = {"exact_gray": True}


@pytest.mark.parametrize("options", [{}, EXACT])
def test_observations_are_the_callers_to_write_into(options):
    env, other = (AleVecEnv(BREAKOUT, noop_max=0, **options) for _ in range(2))
    env.seed(0)
    other.seed(0)
    obs, others_obs = env.reset(), other.reset()
    rng = np.random.default_rng(0)
    n_lives_lost = 0
    for _ in range(200):
        obs[:] = 7
        actions = rng.integers(0, 4, 1)
        obs, _, dones, infos = env.step(actions)
        others_obs, _, _, others_infos = other.step(actions)
        np.testing.assert_array_equal(obs, others_obs)
        if dones.any():
            n_lives_lost += 1
            obs[:] = 7
            np.testing.assert_array_equal(infos[0]["terminal_observation"], others_infos[0]["terminal_observation"])
    assert n_lives_lost > 2


@pytest.mark.parametrize(
    ("game", "options"),
    [
        *((game, {}) for game in FLICKER),
        *((game, OTHERWISE) for game in ("SpaceInvaders", "Qbert")),
        *((game, EXACT) for game in ("AirRaid", "Alien", "BeamRider", "Breakout")),
        ("Qbert", EXACT | OTHERWISE),
    ],
)
def test_frames_rewards_ends_and_statistics_are_those_of_sb3s_wrappers(game, options):
    difference, game = FLICKER.get(game), f"{game}NoFrameskip-v4"
    ours = AleVecEnv(game, noop_max=0, clip_reward=False, **options)
    theirs = sb3s_wrappers(
        game,
        options.get("terminal_on_life_loss", True),
        options.get("frame_skip", 4),
        options.get("screen_size", 84),
    )
    ours.seed(0)
    theirs.seed(0)
    obs, their_obs = ours.reset(), theirs.reset().transpose(0, 3, 1, 2)
    assert (obs.shape, obs.dtype) == (their_obs.shape, their_obs.dtype)
    rng = np.random.default_rng(0)
    steps_since_done, n_lives_lost, n_games = 0, 0, 0
    for _ in range(1000):
        # The stack is cleared at each done by VecFrameStack, and at the end of a game here
        frames = 4 if steps_since_done >= 3 else 1
        error = np.abs(obs[0, -frames:].astype(int) - their_obs[0, -frames:])
        assert error.max() <= 1 if "exact_gray" in options else error.mean() <= difference
        action = rng.integers(0, ours.action_space.n, 1)
        before = obs
        obs, rewards, dones, infos = ours.step(action)
        their_obs, their_rewards, their_dones, their_infos = theirs.step(action)
        their_obs = their_obs.transpose(0, 3, 1, 2)
        assert rewards == their_rewards
        assert rewards.dtype == their_rewards.dtype
        assert dones == their_dones
        assert infos[0]["TimeLimit.truncated"] is False
        steps_since_done = 0 if dones[0] else steps_since_done + 1
        if not dones[0]:
            assert not infos[0].keys() & {"terminal_observation", "episode"}
            assert infos[0]["lives"] == their_infos[0]["lives"]
            continue
        last = infos[0]["terminal_observation"]
        np.testing.assert_array_equal(last[:3], before[0, 1:])
        assert ("episode" in infos[0]) == ("episode" in their_infos[0])
        if "episode" in infos[0]:
            n_games += 1
            assert infos[0]["episode"]["r"] == their_infos[0]["episode"]["r"]
            assert infos[0]["episode"]["l"] == their_infos[0]["episode"]["l"]
            assert infos[0]["lives"] == 0
            assert not obs[0, :3].any()  # a new game
        else:
            n_lives_lost += 1
            np.testing.assert_array_equal(last, obs[0])  # the game goes on
    if any(name in game for name in ("Breakout", "Qbert", "SpaceInvaders", "Seaquest")):
        assert n_games > 0
        assert (n_lives_lost > 0) == options.get("terminal_on_life_loss", True)


def play(env, n_steps, seed=0):
    rng = np.random.default_rng(seed)
    yield env.reset(), None, None, None
    for _ in range(n_steps):
        yield env.step(rng.integers(0, env.action_space.n, env.num_envs))


def test_the_seed_decides_each_game():
    first, same, other = (
        [(obs.copy(), rewards) for obs, rewards, _, _ in play(make_ale_vec_env(BREAKOUT, 3, seed=seed), 60)]
        for seed in (5, 5, 6)
    )
    for (obs, rewards), (same_obs, same_rewards) in zip(first, same, strict=True):
        np.testing.assert_array_equal(obs, same_obs)
        np.testing.assert_array_equal(rewards, same_rewards)
    assert any((obs != other_obs).any() for (obs, _), (other_obs, _) in zip(first, other, strict=True))
    # Each has a seed of its own, the next one that of the one before: other numbers of no-ops, other positions
    assert any((obs[0] != obs[1]).any() for obs, _ in first)
    np.testing.assert_array_equal(first[0][0][1], other[0][0][0])


def test_seeds_of_32_bits_are_taken():
    env = make_ale_vec_env(PONG, 2, seed=2**32 - 2)
    assert env.reset().shape == (2, 4, 84, 84)


def test_rewards_are_clipped_and_scores_are_not():
    env = make_ale_vec_env("SpaceInvadersNoFrameskip-v4", 2, seed=0)
    raw = make_ale_vec_env("SpaceInvadersNoFrameskip-v4", 2, seed=0, clip_reward=False)
    total, scores = np.zeros(2), {0: None, 1: None}
    for (_, rewards, _, infos), (_, raw_rewards, _, _) in zip(play(env, 1500), play(raw, 1500), strict=True):
        if rewards is None:
            continue
        np.testing.assert_array_equal(rewards, np.sign(raw_rewards))
        total += raw_rewards
        for i, info in enumerate(infos):
            if "episode" in info:
                scores[i] = scores[i] or (info["episode"]["r"], total[i])
    for score, expected in scores.values():  # of the first game of each, all of its lives
        assert score == expected > 20


def test_a_truncated_game_is_told_from_one_that_was_lost():
    spec = copy.deepcopy(gym.spec(PONG))
    spec.kwargs["max_num_frames_per_episode"] = 100
    env = AleVecEnv(spec, 2, noop_max=0)
    for step, (_, _, dones, infos) in enumerate(play(env, 25)):
        if step:
            assert dones.tolist() == [step == 25] * 2
            assert [info["TimeLimit.truncated"] for info in infos] == [step == 25] * 2
    assert infos[0]["episode"]["l"] == 101  # with the frame of FIRE
    assert infos[0]["terminal_observation"].shape == (4, 84, 84)


@pytest.mark.parametrize("limit", [{"max_num_frames_per_episode": 0}, {"max_num_frames_per_episode": None}, {}])
def test_a_game_without_a_limit_is_not_cut_off(limit, monkeypatch):
    """Half an hour of play would show it: ALE has to be told of none that a game comes to."""
    ale = Mock(wraps=AtariVectorEnv)
    monkeypatch.setattr("sb3_rainbow.envs.AtariVectorEnv", ale)
    spec = copy.deepcopy(gym.spec(PONG))
    del spec.kwargs["max_num_frames_per_episode"]
    spec.kwargs |= limit
    assert not any(dones.any() for _, _, dones, _ in list(play(AleVecEnv(spec, 2), 20))[1:])
    assert ale.call_args.kwargs["max_num_frames_per_episode"] == 2**31 - 1


def test_what_the_name_of_a_game_says_reaches_the_emulator(monkeypatch):
    ale = Mock(wraps=AtariVectorEnv)
    monkeypatch.setattr("sb3_rainbow.envs.AtariVectorEnv", ale)
    spec = copy.deepcopy(gym.spec(PONG))
    spec.kwargs |= {"repeat_action_probability": 0.25, "full_action_space": True}
    assert AleVecEnv(spec).action_space.n == 18
    assert ale.call_args.kwargs["repeat_action_probability"] == 0.25
    AleVecEnv(spec, action_repeat_probability=0.5)
    assert ale.call_args.kwargs["repeat_action_probability"] == 0.5
    del spec.kwargs["repeat_action_probability"]
    AleVecEnv(spec)
    assert ale.call_args.kwargs["repeat_action_probability"] == 0.25  # that of ALE's environment


def test_it_is_used_as_sb3_uses_its_own():
    env = make_ale_vec_env(PONG, 2, seed=0)
    env.reset()
    assert env.env_is_wrapped(Monitor) == [True, True]
    assert env.env_is_wrapped(gym.wrappers.TimeLimit, indices=0) == [False]
    assert env.env_is_wrapped(gym.Wrapper, indices=0) == [True]
    assert env.env_is_wrapped(type("MyMonitor", (Monitor,), {}), indices=0) == [False]
    assert env.reset_infos == [{"lives": 0}] * 2
    assert env.get_attr("observation_space", indices=0) == [env.observation_space]
    assert env.get_attr("render_mode") == ["rgb_array"] * 2
    assert env.get_attr("spec", indices=[1])[0].id == PONG
    env.set_attr("colour", "red", indices=1)
    assert env.get_attr("colour", indices=1) == ["red"]
    with pytest.raises(AttributeError, match="colour"):
        env.get_attr("colour")
    assert env.env_method("get_action_meanings", indices=0)[0][:2] == ["NOOP", "FIRE"]
    with pytest.raises(AttributeError, match="fly"):
        env.env_method("fly")
    image = env.render()
    assert image.shape == (2 * 84, 84, 3) or image.shape == (84, 2 * 84, 3)
    np.testing.assert_array_equal(env.env_method("render", indices=1)[0][..., 2], env._obs[1, -1])


def test_rainbow_learns_and_is_evaluated(tmp_path):
    env = make_ale_vec_env(PONG, 4, seed=0, monitor_dir=tmp_path)
    convolutions = {"features_extractor_class": DataEfficientConv}
    model = RainbowDQN("CnnPolicy", env, buffer_size=5000, learning_starts=3900, seed=0, policy_kwargs=convolutions)
    model.learn(4000)
    assert model._n_updates > 5
    assert isinstance(model.replay_buffer.storage.chosen, FrameStorage)
    games = load_results(str(tmp_path))
    assert len(games) == len(model.ep_info_buffer) >= 2
    assert games["r"].mean() == np.mean([info["r"] for info in model.ep_info_buffer])
    # Monitor's statistics are used, not the rewards that were clipped: those of lost lives are none of their own
    short = copy.deepcopy(gym.spec(BREAKOUT))
    short.kwargs["max_num_frames_per_episode"] = 1000
    player = RainbowDQN("CnnPolicy", AleVecEnv(short), buffer_size=100, seed=0, policy_kwargs=convolutions)
    _, lengths = evaluate_policy(player, AleVecEnv(short, 2), 2, return_episode_rewards=True, deterministic=False)
    assert all(length > 400 for length in lengths)  # emulator frames of a whole game, not env steps of one life


def test_it_takes_the_place_of_other_envs(tmp_path):
    def make(index):
        return lambda: Monitor(gym.make(BREAKOUT), str(tmp_path / str(index)))

    below = DummyVecEnv([make(index) for index in range(3)])
    below.seed(7)
    env = replace_by_ale(VecCheckNan(below), terminal_on_life_loss=False)
    assert env.num_envs == 3
    same = make_ale_vec_env(BREAKOUT, 3, seed=7, terminal_on_life_loss=False)
    for (obs, _, _, _), (same_obs, _, _, _) in zip(play(env, 400), play(same, 400), strict=True):
        np.testing.assert_array_equal(obs, same_obs)
    env.close()
    assert len(load_results(str(tmp_path))) >= 3


@pytest.mark.parametrize(
    ("env_id", "options", "message"),
    [
        ("CartPole-v1", {}, "env_id='CartPole-v1' is no Atari game"),
        ("ALE/Pong-v5", {}, "frameskip=4.*PongNoFrameskip-v4"),
        (PONG, {"n_envs": 0}, "n_envs=0"),
        (PONG, {"noop_max": 2**40}, "noop_max="),
        (PONG, {"frame_skip": 2**31}, "frame_skip="),
        (PONG, {"seed": -1}, "seed=-1"),
        (PONG, {"seed": "a"}, "seed='a'"),
        (PONG, {"monitor_dir": 5}, "monitor_dir=5"),
        (None, {}, "env_id=None.*PongNoFrameskip-v4"),
        (5, {}, "env_id=5.*PongNoFrameskip-v4"),
        ("Nonsense-v0", {}, "env_id='Nonsense-v0'.*PongNoFrameskip-v4"),
        (PONG, {"noop_max": -1}, "noop_max=-1"),
        (PONG, {"frame_skip": 0}, "frame_skip=0"),
        (PONG, {"screen_size": 0}, "screen_size=0"),
        (PONG, {"frame_stack": 0}, "frame_stack=0"),
        (PONG, {"action_repeat_probability": 1.5}, "action_repeat_probability=1.5"),
        (PONG, {"clip_reward": "yes"}, "clip_reward='yes'"),
        (PONG, {"exact_gray": 1}, "exact_gray=1"),
        (PONG, {"terminal_on_life_loss": 1}, "terminal_on_life_loss=1"),
        (PONG, {"num_threads": -2}, "num_threads=-2"),
        (PONG, {"results_writer": "x"}, "results_writer='x'"),
    ],
)
def test_bad_arguments_are_named(env_id, options, message):
    with pytest.raises(ValueError, match=message):
        make_ale_vec_env(env_id, **options)


def test_exact_gray_says_that_it_needs_opencv(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ValueError, match=r"exact_gray=True needs OpenCV: pip install"):
        make_ale_vec_env(PONG, exact_gray=True)


def test_what_cannot_be_taken_over_is_refused(tmp_path):
    spec = copy.deepcopy(gym.spec(PONG))
    spec.kwargs["mode"] = 1
    with pytest.raises(ValueError, match="mode=1"):
        AleVecEnv(spec)
    with pytest.raises(ValueError, match=r"venv=.*VecEnv of Atari games"):
        replace_by_ale(gym.make(PONG))
    with pytest.raises(ValueError, match="already: leave replace_by_ale out"):
        replace_by_ale(make_ale_vec_env(PONG))
    with pytest.raises(ValueError, match="max_episode_steps=100"):
        replace_by_ale(DummyVecEnv([lambda: gym.make(PONG, max_episode_steps=100)]))
    with pytest.raises(ValueError, match=r"games=.*Pong.*Breakout.* differ"):
        replace_by_ale(DummyVecEnv([lambda: gym.make(PONG), lambda: gym.make(BREAKOUT)]))
    with pytest.raises(ValueError, match="sound_obs=True"):
        replace_by_ale(DummyVecEnv([lambda: gym.make(PONG, sound_obs=True)]))
    for file in (None, str(tmp_path / "0")):
        with pytest.raises(ValueError, match=r"info_keywords=.*lives"):
            replace_by_ale(DummyVecEnv([lambda file=file: Monitor(gym.make(PONG), file, info_keywords=("lives",))]))


@pytest.mark.parametrize("vec_env_class", [DummyVecEnv, SubprocVecEnv])
def test_what_other_wrappers_do_is_not_lost_in_silence(vec_env_class):
    game = f"sb3_rainbow.envs:{PONG}"  # imported in the other process too
    for wrapper_class in (AtariWrapper, ClipRewardEnv):
        wrapped = make_vec_env(game, 1, wrapper_class=wrapper_class, vec_env_cls=vec_env_class)
        with pytest.raises(ValueError, match=rf"what {wrapper_class.__name__} does would be lost.*env_wrapper"):
            replace_by_ale(wrapped)
        wrapped.close()
    monitored = make_vec_env(game, 1, monitor_kwargs={"info_keywords": ("lives",)}, vec_env_cls=vec_env_class)
    with pytest.raises(ValueError, match=r"info_keywords=.*lives"):
        replace_by_ale(monitored)
    monitored.close()
    with pytest.raises(ValueError, match="what VecFrameStack does would be lost"):
        replace_by_ale(VecFrameStack(make_vec_env(game, 1, vec_env_cls=vec_env_class), 2))


def test_a_monitor_file_is_gone_on_with(tmp_path):
    spec = copy.deepcopy(gym.spec(PONG))
    spec.kwargs["max_num_frames_per_episode"] = 60
    for n_games in (1, 2):
        monitor = Monitor(gym.make(spec), str(tmp_path / "0"), override_existing=n_games == 1)
        env = replace_by_ale(DummyVecEnv([lambda monitor=monitor: monitor]))
        assert sum("episode" in info for _, _, _, infos in play(env, 17) for info in infos or []) == 1
        env.close()
        assert len(load_results(str(tmp_path))) == n_games


def test_a_closed_env_keeps_no_threads():
    env = make_ale_vec_env(PONG, 2, num_threads=2)
    env.reset()
    before = psutil.Process().num_threads()
    env.close()
    assert psutil.Process().num_threads() <= before - 2
    env.close()  # twice is no error
    for use in (env.reset, lambda: env.step(np.zeros(2, int))):
        with pytest.raises(RuntimeError, match="were closed: make new ones"):
            use()


@pytest.mark.parametrize("actions", [[6, 0], [-1, 0], [10**9, 0], [1.5, 0.0], [0], [0, 0, 0], [[0, 0]], 0])
def test_wrong_actions_are_named(actions):
    """ALE's threads would stop for good."""
    env = make_ale_vec_env(PONG, 2, seed=0)
    env.reset()
    with pytest.raises(ValueError, match=r"actions=.*2 integers of 0 to 5"):
        env.step(np.array(actions))
    env.step(np.array([5, 0]))


def test_a_step_that_nobody_waited_for_is_forgotten():
    """As after an interruption."""
    env, same = (make_ale_vec_env(PONG, 2) for _ in range(2))
    env.reset()
    with pytest.raises(RuntimeError, match="step_async"):
        env.step_wait()
    for _ in range(20):
        env.step_async(np.array([2, 3]))
        env.seed(4)
        np.testing.assert_array_equal(env.reset(), [same.seed(4), same.reset()][1])
        env.step_async(np.array([2, 3]))
        for action in ([2, 3], [4, 5]):
            ours = env.step(np.array(action))
        same.step(np.array([2, 3]))
        for action in ([2, 3], [4, 5]):
            theirs = same.step(np.array(action))
        np.testing.assert_array_equal(ours[0], theirs[0])
    env.step_async(np.array([2, 3]))
    env.close()


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, TimeoutError])
def test_an_interruption_while_actions_are_sent_loses_no_step(interruption, monkeypatch):
    """What a signal's handler raises may be any exception."""
    env, same = (make_ale_vec_env(PONG, 2, seed=0) for _ in range(2))
    for each in (env, same):
        each.reset()
    send = env._ale.ale.send

    def interrupted(*args):
        send(*args)
        raise interruption

    ale = Mock(wraps=env._ale.ale, send=interrupted)
    with monkeypatch.context() as patch:
        patch.setattr(env._ale, "ale", ale)
        with pytest.raises(interruption):
            env.step_async(np.array([2, 3]))
    same.step(np.array([2, 3]))
    for ours, theirs in zip(env.step(np.array([4, 5])), same.step(np.array([4, 5])), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("exact_gray", [False, True])
def test_an_interruption_while_a_step_is_waited_for_loses_nothing(exact_gray):
    """Also of one that ends a game: what ALE says of that it says once."""
    spec = copy.deepcopy(gym.spec(PONG))
    spec.kwargs["max_num_frames_per_episode"] = 40
    env, same = (AleVecEnv(spec, 2, noop_max=0, exact_gray=exact_gray) for _ in range(2))
    for each in (env, same):
        each.seed(0)
        each.reset()
    stacked, n_games = env._stacked, 0

    def interrupted(*args):
        env._stacked = stacked
        raise KeyboardInterrupt

    for step in range(25):
        if step % 3 == 0:
            env._stacked = interrupted
            with pytest.raises(KeyboardInterrupt):
                env.step(np.array([0, step % 6]))
            ours = env.step_wait()
        else:
            ours = env.step(np.array([0, step % 6]))
        theirs = same.step(np.array([0, step % 6]))
        for left, right in zip(ours[:3], theirs[:3], strict=True):
            np.testing.assert_array_equal(left, right)
        games, others = ([info["episode"] for info in infos if "episode" in info] for infos in (ours[3], theirs[3]))
        assert [(game["r"], game["l"]) for game in games] == [(game["r"], game["l"]) for game in others]
        n_games += len(games)
    assert n_games == 4


def test_a_step_before_the_first_reset_is_refused():
    env = make_ale_vec_env(PONG, 2)
    with pytest.raises(RuntimeError, match=r"call reset\(\) first"):
        env.step(np.array([2, 3]))
    env.close()


def test_an_interrupted_reset_is_to_be_made_again(monkeypatch):
    """Else the new games would have the scores and frames of the old ones."""
    env = make_ale_vec_env(PONG, 1)
    env.reset()
    env.step(np.array([2]))
    reset = env._ale.reset
    with monkeypatch.context() as patch:
        patch.setattr(env._ale, "reset", Mock(side_effect=lambda **kwargs: [reset(**kwargs), 1 / 0]))
        with pytest.raises(ZeroDivisionError):
            env.reset()
    with pytest.raises(RuntimeError, match=r"call reset\(\) first"):
        env.step(np.array([2]))
    assert env.reset().any()
    assert env.step(np.array([2]))[0].any()
    env.close()


def test_a_monitor_file_that_cannot_be_written_to_leaves_the_games_as_they_are():
    spec = copy.deepcopy(gym.spec(PONG))
    spec.kwargs["max_num_frames_per_episode"] = 8
    full = Mock(side_effect=OSError("no space left"))
    writer = Mock(spec=ResultsWriter, write_row=full, close=full)
    env = AleVecEnv(spec, noop_max=0, results_writer=writer)
    env.reset()
    env.step(np.array([0]))
    with pytest.raises(OSError, match="no space left"):
        env.step(np.array([0]))
    assert full.call_count == 1
    env.step(np.array([0]))
    env.reset()
    env.step(np.array([0]))
    env.step_async(np.array([0]))  # the game's last
    with pytest.raises(OSError, match="no space left"):
        env.close()
    assert env._ale is None
    assert full.call_count == 3  # closing it is tried all the same


@pytest.mark.parametrize("exact_gray", [False, True])
def test_a_game_may_end_in_a_step_that_nobody_waited_for(exact_gray):
    spec = copy.deepcopy(gym.spec(PONG))
    spec.kwargs["max_num_frames_per_episode"] = 40
    seen = []
    for forgotten in (9, None):
        env = AleVecEnv(spec, noop_max=0, exact_gray=exact_gray)
        env.seed(0)
        env.reset()
        for step in range(25):
            env.step_async(np.array([0]))
            if step != forgotten:
                obs, _, _, infos = env.step_wait()
            if step == 19:
                assert infos[0]["episode"]["l"] == 41  # of the second game alone, with the action that begins it
        seen.append(obs)
    np.testing.assert_array_equal(*seen)


@pytest.mark.parametrize("game", ["NameThisGame", "Berzerk"])
def test_games_that_are_begun_by_actions_have_monitors_length(game):
    """Their starting actions count for ALE's frame number and not for that of the episode."""
    spec = copy.deepcopy(gym.spec(f"{game}NoFrameskip-v4"))
    spec.kwargs["max_num_frames_per_episode"] = 400
    env = AleVecEnv(spec, noop_max=0)
    lengths = [info["episode"]["l"] for _, _, _, infos in play(env, 250) for info in infos or [] if "episode" in info]
    fire = "FIRE" in env.env_method("get_action_meanings")[0]
    assert lengths == [400 + fire] * 2


def test_sticky_actions_differ_from_game_to_game_without_a_seed_too():
    """The same actions, and no no-ops, in games that differ by nothing else."""
    env = make_ale_vec_env(BREAKOUT, 4, noop_max=0, action_repeat_probability=0.5)
    rng = np.random.default_rng(0)
    env.reset()
    frames = [env.step(np.full(4, rng.integers(env.action_space.n)))[0][:, -1].copy() for _ in range(100)]
    games = np.stack(frames, axis=1)
    assert all((games[one] != games[other]).any() for one in range(4) for other in range(one))


def test_options_reach_the_emulator():
    env = make_ale_vec_env(PONG, 1, frame_stack=2.0, screen_size=42)
    assert env.observation_space == spaces.Box(0, 255, (2, 42, 42), np.uint8)

    def final_frames(**options):
        env = make_ale_vec_env(PONG, 1, seed=1, noop_max=0, **options)
        return [obs.copy() for obs, _, _, _ in play(env, 100)][-1]

    assert (final_frames() != final_frames(action_repeat_probability=0.5)).any()
    assert (final_frames() != final_frames(frame_skip=2)).any()
