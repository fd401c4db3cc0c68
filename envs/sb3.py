"""`ImaginedVecEnv`: B learned worlds in one batch, as a vector environment of Stable-Baselines3."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.utils import seeding
from gymnasium.vector.utils import batch_space, iterate
from numpy.typing import NDArray

from ..errors import ConfigError
from ..world_models.world import World
from .contexts import Contexts
from .episodes import Episodes
from .imagination import draw_seed
from .imagined import ImaginedEnv
from .observations import Observation
from .starts import read_options
from .uncertainty import MaxUncertainty, Uncertainty

try:
    from stable_baselines3.common.vec_env import VecEnv
    from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn
except ImportError as missing:
    raise ConfigError(
        "worldloop.envs.sb3 needs Stable-Baselines3, which is not installed; "
        "install it with pip install stable-baselines3."
    ) from missing


class ImaginedVecEnv(VecEnv):
    """``num_envs`` imagined worlds on one device, for the algorithms of Stable-Baselines3.

    World i behaves as the i-th `ImaginedEnv` of a ``DummyVecEnv`` does, whatever the others do, but all are
    stepped by one call of one model.

    Example:
        >>> from stable_baselines3 import PPO
        >>> envs = ImaginedVecEnv("doom-rooms-tiny", num_envs=8, max_episode_steps=100)
        >>> model = PPO("CnnPolicy", envs, n_steps=32, seed=0)
        >>> model = model.learn(total_timesteps=10_000)           # doctest: +SKIP

    Observations are frames (B, H, W, 3) uint8 (SB3 itself moves the channels for its policies), latents
    (B, C, h, w) float32, poses (B, 5) float64, or a dict of several, for SB3's ``MultiInputPolicy``; rewards (B,)
    float32; dones (B,) bool. An info holds what `ImaginedEnv`'s does and ``TimeLimit.truncated``: the episode was
    truncated and not terminated. A world whose episode ended begins the next at once: its observation is that of the
    new episode, ``info["terminal_observation"]`` the last of the old one, and ``reset_infos`` has the new info.

    `seed` and `set_options` take effect at the next `reset`; the options of a world are those of
    ``ImaginedEnv.reset``. `get_attr`, `set_attr` and `env_method` see each world as an `ImaginedEnv`:
    ``env_method("snapshot", indices=3)`` are the bytes of the fourth world.

    Args:
        world: name or directory of a learned world, or a world itself.
        num_envs: B, the number of worlds.
        contexts: recorded starts; default: those that came with the world.
        max_episode_steps: time limit after which an episode is truncated; None for none.
        observation: ``"frame"``, ``"latent"``, ``"pose"`` or ``"state"``, or several of them.
        device: where to load a world given by name.
        overrides: of its configuration, e.g. ``{"denoising_steps": 1}``.
        render_mode: ``"rgb_array"`` or None.
        uncertainty: what ``info["uncertainty"]`` is, see `ImaginedEnv`.
        uncertainty_samples: noise seeds that ``"disagreement"`` compares.
        max_uncertainty: truncate where the uncertainty passes this; None for never; ``"calibrated"``: the threshold
            that ``worldloop evaluate calibration --write`` has put beside the world.
        retrieved: tell in each info which frames memory gave, see `ImaginedEnv`.
        curiosity: reward of showing what memory has not, see `ImaginedEnv`.

    Raises:
        ConfigError: arguments that contradict each other or the world.
        WorldFormatError: no such world, or a damaged one.
        DataError: no such contexts, or damaged ones.
    """

    def __init__(
        self,
        world: str | Path | World,
        num_envs: int = 1,
        contexts: str | Path | Contexts | None = None,
        max_episode_steps: int | None = None,
        observation: Observation = "frame",
        device: str = "cpu",
        overrides: dict[str, Any] | None = None,
        render_mode: str | None = None,
        uncertainty: Uncertainty = "denoising",
        uncertainty_samples: int = 4,
        max_uncertainty: MaxUncertainty = None,
        retrieved: bool = False,
        curiosity: float = 0.0,
    ) -> None:
        if num_envs < 1:
            raise ConfigError(f"A vector environment needs num_envs >= 1, got {num_envs}.")
        env = ImaginedEnv(
            world, contexts, max_episode_steps, observation, device, overrides, render_mode,
            uncertainty, uncertainty_samples, max_uncertainty, retrieved, curiosity,
        )  # fmt: skip
        self._set_up(env, num_envs)

    def _set_up(self, env: ImaginedEnv, num_envs: int) -> None:
        self.imagination = env.imagination
        self._episodes: Episodes | None = None
        self._actions: NDArray[Any] | None = None
        self._closed = False
        # They share one model. The constructor of VecEnv already asks each for its render_mode.
        self._alone = [copy(env) for _ in range(num_envs)]
        super().__init__(num_envs, env.observation_space, env.action_space)

    def reset(self) -> VecEnvObs:
        """Begin an episode in every world, with what `seed` and `set_options` asked for.

        Raises:
            ValueError: options that contradict each other, are unknown, or do not fit the world.
            gymnasium.error.ClosedEnvironmentError: after `close`.
        """
        self._check_open()
        begun = self._begin()
        self._episodes, self._actions = begun, None
        self.reset_infos = self._infos(begun)
        self._reset_seeds()
        self._reset_options()
        return self._observe(begun)

    def step_async(self, actions: NDArray[Any]) -> None:
        """Take the actions (B, ...) that `step_wait` will carry out."""
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        """One imagined step of every world: observations, rewards, dones, infos.

        Raises:
            ValueError: an action outside the space; nothing has been stepped then.
            gymnasium.error.ResetNeeded: no episodes have begun.
            gymnasium.error.NoAsyncCallError: there are no actions.
            gymnasium.error.ClosedEnvironmentError: after `close`.
        """
        running = self._running
        actions, self._actions = self._actions, None
        if actions is None:
            raise gym.error.NoAsyncCallError("There are no actions: call step_async() first.", "step_wait")
        after, outcome = self.imagination.step(running, actions)
        infos = self._infos(after)
        truncated = (outcome.truncated & ~outcome.terminated).tolist()
        for info, at_limit in zip(infos, truncated, strict=True):
            info["TimeLimit.truncated"] = at_limit
        if bool(after.done.any()):
            finals = after[after.done]
            begun = self.imagination.begin_next(finals)
            worlds = after.done.nonzero().flatten().tolist()
            ends = iterate(batch_space(self.observation_space, len(finals)), self._observe(finals))
            for i, end, info in zip(worlds, ends, self._infos(begun), strict=True):
                infos[i]["terminal_observation"], self.reset_infos[i] = end, info
            self._episodes = after.put(after.done, begun)
        else:
            self._episodes = after
        rewards = outcome.reward.to(torch.float32).cpu().numpy()
        return self._observe(self._episodes), rewards, after.done.cpu().numpy(), infos

    def close(self) -> None:
        """Let go of all episodes; what is called afterwards raises. Closing twice is fine."""
        self._closed, self._episodes = True, None

    def get_images(self) -> Sequence[NDArray[np.uint8] | None]:
        """The newest frame (H, W, 3) of each world; None without a render mode."""
        if self.render_mode != "rgb_array":
            return [None] * self.num_envs
        return list(self.imagination.render(self._running))

    def fork(self, index: int, n: int) -> ImaginedVecEnv:
        """``n`` worlds that continue world ``index``, as an environment of their own with the same model.

        They share its past and its seed: equal actions give equal futures. This environment is left as it is.

        Raises:
            IndexError: no such world.
            ValueError: n < 1.
        """
        if not -self.num_envs <= index < self.num_envs:
            raise IndexError(f"World {index} does not exist: this environment has {self.num_envs}.")
        if n < 1:
            raise ValueError(f"fork(index, n) needs n >= 1, got {n}.")
        forked = ImaginedVecEnv.__new__(ImaginedVecEnv)
        forked._set_up(self._alone[index], n)
        forked._episodes = self._running[[index % self.num_envs] * n]
        return forked

    def snapshot(self) -> bytes:
        """All episodes as they stand, noise and seeds included; `ImaginedVectorEnv` reads them too."""
        return self._running.snapshot()

    def restore(self, snapshot: bytes) -> VecEnvObs:
        """Go on from a `snapshot` of ``num_envs`` worlds; returns the observations of its moment.

        Raises:
            WorldFormatError: the bytes are damaged, or hold something else.
            ValueError: they hold another number of episodes, or another kind of world.
        """
        self._check_open()
        self._episodes = self.imagination.restore(snapshot, self.num_envs)
        return self._observe(self._episodes)

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """An attribute of each world, seen as an `ImaginedEnv`."""
        return [getattr(env, attr_name) for _, env in self._each(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Set an attribute of each world, which `get_attr` returns and `env_method` sees."""
        for _, env in self._each(indices):
            setattr(env, attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        """Call a method of each world, seen as an `ImaginedEnv`; what it does to the world lasts.

        Raises:
            gymnasium.error.ResetNeeded: no episodes have begun.
        """
        running, results = self._running, []
        for i, env in self._each(indices):
            results.append(getattr(env, method_name)(*method_args, **method_kwargs))
            row = torch.arange(self.num_envs, device=running.done.device) == i
            running = running.put(row, self.imagination.restore(env.snapshot(), 1))
        self._episodes = running
        return results

    def env_is_wrapped(
        self, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]], indices: VecEnvIndices = None
    ) -> list[bool]:
        """False for each world: imagined worlds have no wrappers of their own."""
        return [False for _ in self._get_indices(indices)]

    @property
    def _running(self) -> Episodes:
        self._check_open()
        if self._episodes is None:
            raise gym.error.ResetNeeded("No episodes have begun: call reset() first.")
        return self._episodes

    def _check_open(self) -> None:
        if self._closed:
            raise gym.error.ClosedEnvironmentError("This environment is closed: make another one.")

    def _each(self, indices: VecEnvIndices) -> Iterator[tuple[int, ImaginedEnv]]:
        """Number and scalar environment of each world, the latter at the world's present moment."""
        for i in self._get_indices(indices):
            index = range(self.num_envs)[i]
            env = self._alone[index]
            if self._episodes is not None:
                env.restore(self._episodes[[index]].snapshot())
            yield index, env

    def _begin(self) -> Episodes:
        """The next episodes: from the seeds given, else the ones that follow, else from any seed."""
        running, device = self._episodes, self.imagination.world.device
        if running is None:
            seeds = torch.zeros(self.num_envs, dtype=torch.int64, device=device)
            numbers = torch.zeros_like(seeds)
        else:
            seeds, numbers = running.seed.clone(), running.episode + 1
        for i, seed in enumerate(self._seeds):
            if seed is not None or running is None:
                seeds[i], numbers[i] = draw_seed(seeding.np_random(seed)[0]), 0
        if len(self._options) != self.num_envs:
            raise ValueError(
                f"Expected the options of each of {self.num_envs} worlds, got {len(self._options)}."
            )
        if not any(self._options):
            return self.imagination.begin(seeds, numbers)
        return Episodes.cat(
            *(
                self.imagination.begin(seeds[[i]], numbers[[i]], *read_options(options, 1))
                for i, options in enumerate(self._options)
            )
        )

    def _observe(self, episodes: Episodes) -> VecEnvObs:
        observations: VecEnvObs = self.imagination.observe(episodes)
        return observations

    def _infos(self, episodes: Episodes) -> list[dict[str, Any]]:
        columns = self.imagination.info(episodes)
        return [
            {name: values[i].item() if values.ndim == 1 else values[i] for name, values in columns.items()}
            for i in range(len(episodes))
        ]
