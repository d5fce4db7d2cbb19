"""Third floor: the algorithm."""

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, Self

import numpy as np
import torch as th
from gymnasium import spaces
from numpy.typing import ArrayLike
from stable_baselines3.common.base_class import maybe_make_env
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, PyTorchObs, RolloutReturn, Schedule
from stable_baselines3.common.vec_env import VecEnv

from sb3_rainbow.arguments import environment, known_device, known_spaces, number, subclass_of, whole_number
from sb3_rainbow.buffers import RainbowDictReplayBuffer, RainbowReplayBuffer, end_trajectories
from sb3_rainbow.captured import Settings
from sb3_rainbow.capturing import CapturingDQN
from sb3_rainbow.checking import CheckingDQN, constructor_arguments
from sb3_rainbow.compiled import Compiled
from sb3_rainbow.heads import loss_of_batch
from sb3_rainbow.memory import keep_freed_memory
from sb3_rainbow.moments import forget_subnormal_moments
from sb3_rainbow.networks import RainbowNetwork, copied, has_modes
from sb3_rainbow.noisy import noise_lock, noisy_layers, reset_noise
from sb3_rainbow.overlap import OverlappingDQN
from sb3_rainbow.policies import CnnPolicy, MlpPolicy, MultiInputPolicy, RainbowPolicy
from sb3_rainbow.sampling import PrioritizedSampler
from sb3_rainbow.saving import SavingDQN
from sb3_rainbow.watch import SupportWatch, TrainingLog, require_finite, require_finite_step, shows_returns


class RainbowDQN(CapturingDQN, SavingDQN, OverlappingDQN, CheckingDQN):
    """
    Rainbow: DQN with six extensions, each a switch. With all off, and DQN's other arguments, it is SB3's DQN.

    Paper: https://arxiv.org/abs/1710.02298; the defaults are the published ones, in env steps (4 emulator frames on
    Atari). What shapes the network, such as ``v_min``, ``v_max`` and ``sigma_init``, goes into ``policy_kwargs``: see
    ``RainbowPolicy``.

    :param policy: "MlpPolicy", "CnnPolicy", "MultiInputPolicy" or a subclass of ``RainbowPolicy``
    :param env: the environment to learn from, with Discrete actions (if registered in Gym, can be str)
    :param learning_rate: the learning rate, it can be a function of the current progress remaining (from 1 to 0)
    :param buffer_size: capacity of the replay buffer in transitions, summed over envs
    :param learning_starts: number of env steps, summed over envs, with random actions and before learning starts
    :param batch_size: transitions in a gradient step
    :param tau: the soft update coefficient of the target network, 1 for hard updates
    :param gamma: the discount factor
    :param train_freq: update the model every ``train_freq`` vectorised steps (each ``n_envs`` env steps), or a tuple
        such as ``(5, "step")`` or ``(2, "episode")``
    :param gradient_steps: gradient steps after each rollout; -1: as many as env steps were made in it
    :param replay_buffer_class: replay buffer class (for instance ``HerReplayBuffer``); it gets ``n_steps``, ``gamma``,
        ``prioritized_replay``, its alpha and its beta0 if its constructor takes them, and new priorities if it has
        ``update_priorities`` and its batches ``indices``. Default: by observation space
    :param replay_buffer_kwargs: further arguments of the replay buffer, such as ``frame_stack``
    :param optimize_memory_usage: for other buffer classes; the default ones do not have SB3's variant
    :param n_steps: length of the n-step return, 1 for none
    :param target_update_interval: env steps, summed over envs, between updates of the target network
    :param exploration_fraction: fraction of training over which epsilon is reduced. Default: 0.1
    :param exploration_initial_eps: initial probability of a random action, drawn for each env. Default: 0 when
        ``noisy``, otherwise 1
    :param exploration_final_eps: final probability of a random action. Default: 0 when ``noisy``, otherwise 0.05
    :param max_grad_norm: the maximum norm of the gradient; None: no clipping
    :param stats_window_size: number of episodes over which the rollout statistics are averaged
    :param tensorboard_log: the log location for tensorboard (if None, no logging)
    :param policy_kwargs: additional arguments of the policy
    :param verbose: 0 for no output, 1 for info messages, 2 for debug messages
    :param seed: seed of all random numbers
    :param device: device on which the code should be run
    :param double_q: the online network selects the action to bootstrap with, the target network evaluates it
        (https://arxiv.org/abs/1509.06461)
    :param dueling: value and advantage streams (https://arxiv.org/abs/1511.06581)
    :param noisy: noisy linear layers instead of epsilon-greedy exploration (https://arxiv.org/abs/1706.10295)
    :param distributional: categorical return distribution (https://arxiv.org/abs/1707.06887)
    :param prioritized_replay: prioritized replay (https://arxiv.org/abs/1511.05952)
    :param prioritized_replay_alpha: priority exponent, 0 to 1
    :param prioritized_replay_beta0: importance-weight exponent at the start, 0 to 1; it rises linearly to 1, and never
        falls: a loaded model goes on from what it had risen to
    :param prioritized_replay_beta_fraction: share of training over which it rises, above 0 to 1
    :param prioritized_replay_eps: added to every priority, above 1e-30
    :param amp: networks compute gradient steps in bfloat16 (``torch.autocast``), which is faster where the processor or
        the GPU has fast instructions for it; weights, scalar Q-values, losses and priorities stay float32
    :param compile: the networks and the loss are compiled (``torch.compile``) in the first gradient step, which takes
        about half a minute and needs a C++ compiler; later ones are faster, and equal but for rounding (a dropout
        layer of yours draws other numbers). On a GPU replay is copied to its memory, where there is room, and a whole
        gradient step is one CUDA graph: see docs/gpu.md
    :param overlap: gradient steps are made while the envs are in the first step of the next rollout, whose actions
        are chosen before: it saves the time of that step where envs are slow and step in processes or threads of
        their own (``SubprocVecEnv``, ``make_ale_vec_env``). A seed gives other weights with it, but always the same
    :raises ValueError: on an argument out of range, a policy or an action space that does not fit
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": MlpPolicy,
        "CnnPolicy": CnnPolicy,
        "MultiInputPolicy": MultiInputPolicy,
    }
    policy: RainbowPolicy
    q_net: RainbowNetwork
    q_net_target: RainbowNetwork

    def __init__(
        self,
        policy: str | type[RainbowPolicy],
        env: GymEnv | str,
        learning_rate: float | Schedule = 6.25e-5,
        buffer_size: int = 1_000_000,
        learning_starts: int = 20_000,
        batch_size: int = 32,
        tau: float = 1.0,
        gamma: float = 0.99,
        train_freq: int | tuple[int, str] = 4,
        gradient_steps: int = 1,
        replay_buffer_class: type[ReplayBuffer] | None = None,
        replay_buffer_kwargs: dict[str, Any] | None = None,
        optimize_memory_usage: bool = False,
        n_steps: int = 3,
        target_update_interval: int = 8_000,
        exploration_fraction: float | None = None,
        exploration_initial_eps: float | None = None,
        exploration_final_eps: float | None = None,
        max_grad_norm: float | None = 10,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        *,
        double_q: bool = True,
        dueling: bool = True,
        noisy: bool = True,
        distributional: bool = True,
        prioritized_replay: bool = True,
        prioritized_replay_alpha: float = 0.5,
        prioritized_replay_beta0: float = 0.4,
        prioritized_replay_beta_fraction: float = 1.0,
        prioritized_replay_eps: float = 1e-6,
        amp: bool = False,
        compile: bool = False,
        overlap: bool = False,
        _init_setup_model: bool = True,
    ) -> None:
        self.double_q, self.dueling, self.noisy, self.distributional = double_q, dueling, noisy, distributional
        self.prioritized_replay = prioritized_replay
        self.prioritized_replay_alpha, self.prioritized_replay_eps = prioritized_replay_alpha, prioritized_replay_eps
        self.prioritized_replay_beta0 = prioritized_replay_beta0
        self.prioritized_replay_beta_fraction = prioritized_replay_beta_fraction
        self.prioritized_replay_beta = prioritized_replay_beta0  # what it has risen to
        self.amp, self.compile, self.overlap = amp, compile, overlap
        if not isinstance(policy, str) or policy not in self.policy_aliases:
            subclass_of("policy", policy, RainbowPolicy, "'MlpPolicy', 'CnnPolicy' or 'MultiInputPolicy'")
        verbose = whole_number("verbose", int(verbose) if isinstance(verbose, bool | np.bool_) else verbose, 0)
        if env is not None or _init_setup_model:  # load() may do without
            env = maybe_make_env(environment(env), verbose)
            known_spaces(env)
        super().__init__(
            policy=policy,
            env=env,
            learning_rate=learning_rate,
            buffer_size=buffer_size,
            learning_starts=learning_starts,
            batch_size=batch_size,
            tau=tau,
            gamma=gamma,
            train_freq=train_freq,
            gradient_steps=gradient_steps,
            replay_buffer_class=replay_buffer_class,
            replay_buffer_kwargs=replay_buffer_kwargs,
            optimize_memory_usage=optimize_memory_usage,
            n_steps=n_steps,
            target_update_interval=target_update_interval,
            # These four may be None, which CheckingDQN._clean_arguments replaces
            exploration_fraction=exploration_fraction,  # type: ignore[arg-type]
            exploration_initial_eps=exploration_initial_eps,  # type: ignore[arg-type]
            exploration_final_eps=exploration_final_eps,  # type: ignore[arg-type]
            max_grad_norm=max_grad_norm,  # type: ignore[arg-type]
            stats_window_size=whole_number("stats_window_size", stats_window_size, 1, 10**12),
            tensorboard_log=tensorboard_log,
            policy_kwargs=policy_kwargs,
            verbose=verbose,
            seed=seed,
            device=known_device(device),
            _init_setup_model=False,
        )
        if _init_setup_model:
            self._clean_arguments()  # as _setup_model will, which load() calls alone
            self._check_arguments()
            self._setup_model()
            self._warn_of_idle_switches()

    def _setup_model(self) -> None:
        self._clean_arguments()
        if self.replay_buffer_class is None:
            is_dict = isinstance(self.observation_space, spaces.Dict)
            self.replay_buffer_class = RainbowDictReplayBuffer if is_dict else RainbowReplayBuffer
        taken = constructor_arguments(self.replay_buffer_class)
        buffer_kwargs = {name: value for name, value in self._buffer_arguments().items() if name in taken}
        # What SB3 builds from is completed for the time of building only: it compares policy_kwargs on load, and says
        # that n_steps is ignored by any replay_buffer_class.
        given = self.policy_kwargs, self.replay_buffer_kwargs, self.n_steps
        saved = self.replay_buffer  # with the model
        if isinstance(saved, RainbowReplayBuffer):
            self.replay_buffer = None  # so that SB3 makes the one that is meant, which takes no memory
        self.policy_kwargs = self._network_switches() | self.policy_kwargs
        self.replay_buffer_kwargs = buffer_kwargs | self.replay_buffer_kwargs
        self.n_steps = 1
        try:
            super()._setup_model()
        except TypeError as error:
            if "argument" not in str(error):
                raise
            raise ValueError(
                f"policy_kwargs={given[0]} or replay_buffer_kwargs={given[1]} do not fit: {error}. They take arguments "
                "of the policy and of the replay buffer; RainbowDQN's own go to RainbowDQN()"
            ) from error
        finally:
            self.policy_kwargs, self.replay_buffer_kwargs, self.n_steps = given
        if saved is not None:
            saved.device = self.device  # which may be another one than it was saved from
        if isinstance(saved, RainbowReplayBuffer):
            self._take_back(saved)
        self._loss_function: Callable = Compiled(type(self)._loss) if self.compile else type(self)._loss
        self._has_modes = has_modes(self.q_net)  # or else _loss changes none: it takes as long as a few layers
        self._training_log = TrainingLog()
        network = self.policy.rainbow_kwargs
        self._support_watch = SupportWatch(network["v_min"], network["v_max"], network["n_atoms"])

    def train(self, gradient_steps: int, batch_size: int = 100) -> None:
        """
        Draw batches from the replay buffer and learn from them.

        :param gradient_steps: number of batches
        :param batch_size: transitions in each
        :raises ValueError: when a reward, a loss or a gradient is not finite: weights and priorities are as before
            that batch; when the replay buffer is empty, or an argument that shaped it or the network has changed
        """
        self._now_or_later(partial(self._train_now, gradient_steps, batch_size))

    def _train_now(self, gradient_steps: int, batch_size: int) -> None:
        try:
            self.policy.set_training_mode(True)
            self._make_gradient_steps(gradient_steps, batch_size)
        finally:
            self.policy.set_training_mode(False)  # q_net(obs) has the mean weights, whoever asks for it

    def _make_gradient_steps(self, gradient_steps: int, batch_size: int) -> None:
        self._update_learning_rate(self.policy.optimizer)
        self._update_buffer()
        assert self.replay_buffer is not None
        captured = self._captured_steps(RainbowDQN)
        if captured is not None:
            assert isinstance(self.replay_buffer, RainbowReplayBuffer)
            clip, eps = float(self.max_grad_norm), float(self.prioritized_replay_eps)
            settings = Settings(whole_number("batch_size", batch_size, 1), self.double_q, self.amp, clip, eps)
            captured.make(self.replay_buffer, gradient_steps, settings)
            require_finite(self.num_timesteps, **captured.failure(wait=False))
        else:
            for _ in range(gradient_steps):
                batch = self.replay_buffer.sample(batch_size, env=self._vec_normalize_env)
                self._training_log.add(self._gradient_step(batch))
        before, self._n_updates = self._n_updates, self._n_updates + gradient_steps
        if self.device.type == "cpu" and before // 100 < self._n_updates // 100:  # GPUs take as long for any number
            forget_subnormal_moments(self.policy.optimizer)
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        if self.device.type == "cpu":  # elsewhere this would wait for the device: dump_logs does it
            self._record_training()

    def _gradient_step(self, batch: Any) -> dict[str, th.Tensor]:
        """
        :param batch: a sample of our replay buffer, or of another class: those have no weights, and maybe no discounts
        :return: what is logged of this step, by name
        """
        require_finite(self.num_timesteps, rewards=batch.rewards)
        discounts = self.gamma if getattr(batch, "discounts", None) is None else batch.discounts
        weights = getattr(batch, "weights", None)
        # Not compiled: the compiler's own loops over bytes take up to four times as long
        image_dtype = th.bfloat16 if self.amp else th.float32
        obs, next_obs = (self.q_net.prepared(o, image_dtype) for o in (batch.observations, batch.next_observations))
        with noise_lock():
            reset_noise(self.q_net)
            reset_noise(self.q_net_target)
            loss, priorities, log = self._loss_function(
                self, obs, batch.actions, next_obs, batch.rewards, (1 - batch.dones) * discounts, weights
            )
        self.policy.optimizer.zero_grad()
        loss.backward()
        grad_norm = self._clip_gradient()
        require_finite(self.num_timesteps, loss=loss, gradient_norm=grad_norm)
        self.policy.optimizer.step()
        buffer: Any = self.replay_buffer
        if self.prioritized_replay and hasattr(buffer, "update_priorities"):
            if hasattr(batch, "indices"):
                new = priorities.squeeze(1).cpu().numpy() + self.prioritized_replay_eps
                buffer.update_priorities(batch.indices, new)
            else:
                warnings.warn(
                    f"prioritized_replay=True has no effect with this {type(buffer).__name__}, as its batches have no "
                    "``indices``: name them so, or write prioritized_replay=False",
                    stacklevel=2,
                )
        return {"loss": loss, "grad_norm": grad_norm, **log}

    def _loss(
        self,
        obs: PyTorchObs,
        actions: th.Tensor,
        next_obs: PyTorchObs,
        returns: th.Tensor,
        discounts: th.Tensor,
        weights: th.Tensor | None,
    ) -> tuple[th.Tensor, th.Tensor, dict[str, th.Tensor]]:
        """
        What ``compile`` compiles: tensors in, tensors out, nothing drawn and nothing changed.

        :param obs: what ``RainbowNetwork.prepared`` made
        :param actions: (batch, 1)
        :param next_obs: as ``obs``, after the window
        :param returns: (batch, 1), of the window, reward units
        :param discounts: (batch, 1), of the bootstrap, 0 at a true terminal
        :param weights: of importance, one for each row; None: all 1
        :return: loss, priorities (batch, 1) without a gradient, and what is logged, by name
        """
        with th.autocast(self.device.type, dtype=th.bfloat16, enabled=self.amp):
            with th.no_grad():
                # Read again below: a user's module, which _has_modes is true of as well, may write into its input
                for_target = copied(next_obs) if self.double_q and self._has_modes else next_obs
                next_outputs = self.q_net_target.outputs(for_target, is_prepared=True).float()
            outputs = self.q_net.outputs(obs, is_prepared=True).float()
            selecting = next_outputs
            if self.double_q:
                # After the pass with a gradient: its weights in bfloat16 are used again here, but not the other way
                with th.no_grad():
                    if self._has_modes:  # observations of the batch alone count for batch normalization, as in DQN
                        self.q_net.set_training_mode(False)
                    selecting = self.q_net.outputs(next_obs, is_prepared=True).float()
                    if self._has_modes:
                        self.q_net.set_training_mode(True)
        # What the heads make of the outputs is not for 8 bits of precision
        return loss_of_batch(self.q_net.head, outputs, actions, next_outputs, selecting, returns, discounts, weights)

    def _clip_gradient(self) -> th.Tensor:
        """
        :return: norm of the gradient, before it was scaled down to ``max_grad_norm``
        """
        weights = [weight for group in self.policy.optimizer.param_groups for weight in group["params"]]
        flat = [weight.grad.reshape(-1) for weight in weights if weight.grad is not None]
        norm = th.stack([gradient.dot(gradient) for gradient in flat]).sum().sqrt()
        if norm < 0.999 * self.max_grad_norm - 1e-6:  # mostly: clip_grad_norm_ would multiply by 1, after a slower norm
            return norm
        return th.nn.utils.clip_grad_norm_(weights, self.max_grad_norm)

    def _update_buffer(self) -> None:
        """
        Hand beta to the buffer, and what of n_steps and gamma has changed since it was made or saved.

        :raises ValueError: when something else has changed
        """
        self._require_unchanged()
        progress = min((1 - self._current_progress_remaining) / self.prioritized_replay_beta_fraction, 1.0)
        beta = self.prioritized_replay_beta0 + (1 - self.prioritized_replay_beta0) * progress
        # Linear in the progress of training, but never down again, whatever a second learn() does to progress
        self.prioritized_replay_beta = max(self.prioritized_replay_beta, beta)
        buffer = self.replay_buffer
        if isinstance(buffer, RainbowReplayBuffer):
            buffer.beta = self.prioritized_replay_beta
            buffer.n_steps, buffer.gamma = whole_number("n_steps", self.n_steps, 1), number("gamma", self.gamma, 0, 1)

    def _record_training(self) -> None:
        if self._captured is not None:
            self._captured.write_back_highest()
            self._training_log.add(*self._captured.take_log())
        means, steps = self._training_log.record(self.logger)
        buffer = self.replay_buffer
        if isinstance(buffer, RainbowReplayBuffer) and isinstance(buffer.sampler, PrioritizedSampler):
            self.logger.record("train/beta", self.prioritized_replay_beta)
            self.logger.record("train/max_priority", buffer.sampler.max_priority)
        if "support_edge" in means and buffer is not None and shows_returns(buffer):
            self._support_watch.add(means["support_edge"], steps, buffer, self.gamma, self._vec_normalize_env)

    def dump_logs(self) -> None:
        """Write log data, SB3's and ours."""
        if self._n_updates:
            self._record_training()
            for index, layer in enumerate(noisy_layers(self.q_net)):
                self.logger.record(f"train/snr_{index}", layer.signal_to_noise())
        super().dump_logs()

    def predict(
        self,
        observation: ArrayLike | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """
        Choose actions. Unless deterministic, each row explores on its own: with noise, and with probability epsilon.

        :param observation: (*obs_shape), or a batch of them (batch, *obs_shape), or a dict of such arrays
        :param state: not used, returned as it is
        :param episode_start: not used
        :param deterministic: greedy actions of the mean weights
        :return: the actions, () or (batch,), and ``state``
        """
        arrays: Any = observation
        if isinstance(observation, dict):
            arrays = {key: np.asarray(value) for key, value in observation.items()}
        elif not (isinstance(observation, tuple) and any(isinstance(part, dict) for part in observation)):
            arrays = np.asarray(observation)
        if deterministic or isinstance(arrays, tuple):  # (obs, info) of reset(): the policy says what is wrong
            return self.policy.predict(arrays, state, episode_start, deterministic)
        is_batch = self.policy.is_vectorized_observation(arrays)
        array = next(iter(arrays.values())) if isinstance(arrays, dict) else arrays
        # One draw for each env. For a single env these are the random numbers that SB3's DQN draws.
        exploring = np.random.rand(len(array) if is_batch else 1) < self.exploration_rate
        random_actions = np.array([self.action_space.sample() for _ in range(exploring.sum())], dtype=np.int64)
        if exploring.all():
            return (random_actions if is_batch else random_actions.squeeze(axis=0)), state
        actions, state = self.policy.predict(arrays, state, episode_start, deterministic)
        if exploring.any():
            actions[exploring] = random_actions
        return actions, state

    def learn(
        self,
        total_timesteps: float,
        callback: MaybeCallback = None,
        log_interval: int | None = 4,
        tb_log_name: str = "RainbowDQN",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """
        Train for a number of env steps.

        :param total_timesteps: env steps, summed over envs, on top of those already counted. As with DQN it may be a
            float such as 1e7, and what is left of a product such as 1e5 * 0.07 is no error
        :param callback: callback(s) called at every step with state of the algorithm
        :param log_interval: number of episodes between two writings of the log; None: never
        :param tb_log_name: the name of the run for TensorBoard logging
        :param reset_num_timesteps: begin to count env steps anew, and reset the env
        :param progress_bar: display a progress bar using tqdm and rich
        :return: the trained model
        :raises ValueError: on an argument out of range, on a reward, an observation, a loss or a gradient that is not
            finite, and on an observation that the dtype of its space cannot hold
        """
        self._clean_what_may_change()
        steps: Any = number("total_timesteps", total_timesteps, 0)
        steps = int(steps) if steps.is_integer() else steps
        if log_interval is not None:
            log_interval = whole_number("log_interval", log_interval, 1, hint="write None for never")
        self._warn_of_learning_starts(steps, reset_num_timesteps)
        return super().learn(steps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)

    def collect_rollouts(self, env: VecEnv, callback: BaseCallback, *args: Any, **kwargs: Any) -> RolloutReturn:
        """As SB3's, and keeps the step at which a callback stops; after an error the next ``learn`` resets the env."""
        try:
            rollout = super().collect_rollouts(env, callback, *args, **kwargs)
            if not rollout.continue_training:
                # SB3 drops the step at which a callback ends a rollout, though the env has made it: where training
                # stops with each episode, no last reward would ever be learned from
                step = callback.locals
                self._update_info_buffer(step["infos"], step["dones"])
                made = [step[name] for name in ("new_obs", "rewards", "dones", "infos")]
                try:
                    require_finite_step(*made)  # SB3's buffers do not look
                    self._store_transition(step["replay_buffer"], step["buffer_actions"], *made)
                except ValueError as error:  # it may be for numbers that cannot be stored that the callback has stopped
                    self._last_obs = None
                    warnings.warn(f"the last step was not stored, learn() will reset the env: {error}", stacklevel=2)
        except BaseException:
            self._last_obs = None  # where the env stands is not known: the next learn() resets it
            raise
        return rollout

    def _setup_learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        reset_num_timesteps: bool = True,
        tb_log_name: str = "run",
        progress_bar: bool = False,
    ) -> tuple[int, BaseCallback]:
        if reset_num_timesteps or self._last_obs is None:
            self._last_obs = None  # or training would go on from it after a reset that was interrupted
            end_trajectories(self.replay_buffer)
        if self.device.type == "cpu" and not isinstance(self.q_net.features_extractor, FlattenExtractor):
            keep_freed_memory()  # for what convolutions put out
        if self._n_updates and getattr(self, "_logger", None) is not None:
            self._record_training()  # what a GPU has not brought yet: the next logger's first values would be of it
        return super()._setup_learn(total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_loss_function", "_training_log", "_support_watch", "_has_modes"]
