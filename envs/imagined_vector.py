"""`ImaginedVectorEnv`: B learned worlds in one batch, as a Gymnasium vector environment."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space, iterate
from numpy.typing import NDArray
from torch import Tensor

from ..errors import ConfigError
from ..files import write_bytes
from ..world_models.state import WorldState
from ..world_models.world import World
from .contexts import Contexts
from .episodes import Episodes, read_snapshot
from .experience import Experience
from .imagination import Imagination, Outcome, draw_seed
from .observations import Observation, copied
from .starts import read_options
from .uncertainty import MaxUncertainty, Uncertainty

_Array = NDArray[Any]
_Infos = dict[str, Any]


class ImaginedVectorEnv(VectorEnv[Any, _Array, _Array]):
    """``num_envs`` imagined worlds on one device, stepped by one call of one model.

    World i behaves as `ImaginedEnv` alone does with the i-th seed, whatever the others do.

    Example:
        >>> import gymnasium as gym, worldloop
        >>> envs = gym.make_vec(
        ...     "worldloop/Imagined-v0", num_envs=64, vectorization_mode="vector_entry_point",
        ...     world="doom-rooms-tiny", max_episode_steps=100,
        ... )
        >>> frames, infos = envs.reset(seed=0)
        >>> frames, rewards, terminated, truncated, infos = envs.step(envs.action_space.sample())

    ``reset(seed=s)`` gives world i the seed ``s + i``; a sequence gives each its own. ``options``:
    ``context`` (an index or one for each world), ``state`` (a `WorldState` of ``num_envs`` worlds, or bytes),
    ``experience`` (which all worlds go on from) and ``reset_mask`` (bool array (num_envs,)) to reset some worlds only.
    With a mask, ``context`` and ``state`` still have a row for each world. ``infos`` holds arrays (num_envs, ...) with
    their masks, as Gymnasium's own vector environments do.

    Args:
        world: name or directory of a learned world, or a world itself.
        num_envs: B, the number of worlds.
        contexts: recorded starts; default: those that came with the world.
        max_episode_steps: time limit after which an episode is truncated; None for none.
        observation: ``"frame"``, ``"latent"``, ``"pose"`` or ``"state"``, or several of them.
        device: where to load a world given by name.
        overrides: of its configuration, e.g. ``{"denoising_steps": 1}``.
        autoreset_mode: what happens after an episode's last step. ``NEXT_STEP``: its next step ignores the
            action, begins the next episode and returns its first observation with reward 0. ``SAME_STEP``:
            the next episode begins at once; ``infos["final_obs"]`` and ``infos["final_info"]`` hold the end
            of the last one. ``DISABLED``: the caller resets, with ``reset_mask``.
        render_mode: ``"rgb_array"`` or None.
        uncertainty: ``"denoising"`` (free), ``"disagreement"`` (each noise seed costs a step) or ``"coverage"`` (how
            far the nearest pose really seen is).
        uncertainty_samples: noise seeds that ``"disagreement"`` compares.
        max_uncertainty: truncate where the uncertainty passes this; None for never; ``"calibrated"``: the threshold
            that ``worldloop evaluate calibration --write`` has put beside the world.
        retrieved: tell in ``infos`` which frames memory gave, see `ImaginedEnv`.
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
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
        render_mode: str | None = None,
        uncertainty: Uncertainty = "denoising",
        uncertainty_samples: int = 4,
        max_uncertainty: MaxUncertainty = None,
        retrieved: bool = False,
        curiosity: float = 0.0,
    ) -> None:
        if num_envs < 1:
            raise ConfigError(f"A vector environment needs num_envs >= 1, got {num_envs}.")
        imagination = Imagination(
            world, contexts, max_episode_steps, observation, device, overrides, render_mode,
            uncertainty, uncertainty_samples, max_uncertainty, retrieved, curiosity,
        )  # fmt: skip
        self._set_up(imagination, num_envs, AutoresetMode(autoreset_mode), render_mode)

    def _set_up(
        self, imagination: Imagination, num_envs: int, autoreset_mode: AutoresetMode, render_mode: str | None
    ) -> None:
        self.imagination = imagination
        self.num_envs = num_envs
        self.autoreset_mode = autoreset_mode
        self.render_mode = render_mode
        self.metadata = {
            "render_modes": ["rgb_array"],
            "render_fps": 10,
            "autoreset_mode": autoreset_mode,
        }
        self.single_action_space = imagination.action_space
        self.single_observation_space = imagination.observation_space
        self.action_space = batch_space(imagination.action_space, num_envs)
        self.observation_space = batch_space(imagination.observation_space, num_envs)
        self._episodes: Episodes | None = None

    @property
    def state(self) -> WorldState:
        """The present state of all worlds, a batch of ``num_envs``."""
        return self._running.world

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, _Infos]:
        """Begin an episode in every world, or where ``options["reset_mask"]`` holds.

        Raises:
            ValueError: seeds or options of another length, unknown, or contradicting each other.
        """
        self._check_open()
        options = dict(options or {})
        mask = self._reset_mask(options.pop("reset_mask", None))
        context, state, experience = read_options(options, self.num_envs)
        seeds, numbers = self._next_seeds(seed)
        rows = torch.from_numpy(mask)
        begun = self.imagination.begin(
            seeds[rows],
            numbers[rows],
            None if context is None else context.to(seeds.device)[rows],
            None if state is None else state[rows],
            experience,
        )
        self._episodes = begun if mask.all() else self._running.put(rows.to(seeds.device), begun)
        return self.imagination.observe(self._episodes), self._infos(self._episodes, mask)

    def step(self, actions: _Array) -> tuple[Any, _Array, _Array, _Array, _Infos]:
        """One imagined step of every world: observations, rewards, terminations, truncations, infos.

        Raises:
            ValueError: an action outside the space.
            gymnasium.error.ResetNeeded: no episodes have begun, or some are over and nobody resets them.
        """
        before = self._running
        if self.autoreset_mode is AutoresetMode.DISABLED and bool(before.done.any()):
            raise gym.error.ResetNeeded(
                f"The episodes of worlds {before.done.nonzero().flatten().tolist()} are over: "
                "reset them with reset(options={'reset_mask': …}) before the next step()."
            )
        over = before.done
        ended = over.cpu().numpy()
        if not ended.any():
            after, outcome = self.imagination.step(before, actions)
            rewards, terminated, truncated = _arrays(outcome)
        else:
            # Only worlds whose episode goes on are imagined: a reset step costs no denoising.
            checked = self.imagination.world.actions.check(actions, (self.num_envs,), before.world.device)
            rewards = np.zeros(self.num_envs)
            terminated, truncated = np.zeros((2, self.num_envs), dtype=np.bool_)
            after = before
            if not ended.all():
                stepped, outcome = self.imagination.step(before[~over], checked[~over])
                after = before.put(~over, stepped)
                rewards[~ended], terminated[~ended], truncated[~ended] = _arrays(outcome)
            after = after.put(over, self.imagination.begin_next(before[over]))
        if self.autoreset_mode is AutoresetMode.SAME_STEP and bool(after.done.any()):
            return self._reset_same_step(after, rewards, terminated, truncated)
        self._episodes = after
        return self.imagination.observe(after), rewards, terminated, truncated, self._infos(after)

    def _reset_same_step(
        self, ended: Episodes, rewards: _Array, terminated: _Array, truncated: _Array
    ) -> tuple[Any, _Array, _Array, _Array, _Infos]:
        mask = ended.done.cpu().numpy()
        finals = ended[ended.done]
        self._episodes = ended.put(ended.done, self.imagination.begin_next(finals))
        infos = self._infos(self._episodes)
        infos["final_obs"] = np.full(self.num_envs, None, dtype=object)
        seen = iterate(batch_space(self.single_observation_space, len(finals)), self.imagination.observe(finals))
        for index, observation in zip(np.flatnonzero(mask), seen, strict=True):
            infos["final_obs"][index] = observation
        infos["final_info"] = self._infos(ended, mask)
        infos["_final_obs"], infos["_final_info"] = mask.copy(), mask.copy()
        return self.imagination.observe(self._episodes), rewards, terminated, truncated, infos

    def render(self) -> tuple[NDArray[np.uint8], ...] | None:
        """The newest frame (H, W, 3) of each world, or None without a render mode."""
        return tuple(self.imagination.render(self._running)) if self.render_mode == "rgb_array" else None

    def fork(self, index: int, n: int) -> ImaginedVectorEnv:
        """``n`` worlds that continue world ``index``, as a vector environment of their own with the same
        model.

        They share its past and its seed: equal actions give equal futures. This environment is left as it is.

        Raises:
            IndexError: no such world.
            ValueError: n < 1.
        """
        if not -self.num_envs <= index < self.num_envs:
            raise IndexError(f"World {index} does not exist: this environment has {self.num_envs}.")
        if n < 1:
            raise ValueError(f"fork(index, n) needs n >= 1, got {n}.")
        forked = ImaginedVectorEnv.__new__(ImaginedVectorEnv)
        forked._set_up(self.imagination, n, self.autoreset_mode, self.render_mode)
        forked._episodes = self._running[[index % self.num_envs] * n]
        return forked

    def start_from(
        self, source: Experience | gym.Env[Any, Any], *, seed: int | Sequence[int | None] | None = None
    ) -> tuple[Any, _Infos]:
        """Begin an episode in every world where reality stands: after what ``source`` has shown, see `ImaginedEnv`."""
        return self.reset(seed=seed, options={"experience": source})

    def snapshot(self, index: int | None = None, path: str | Path | None = None) -> bytes:
        """All episodes as they stand, or only world ``index``, which `ImaginedEnv.restore` reads too.

        Args:
            index: of one world; None for all.
            path: also write it to this file, whole or not at all.
        """
        data = (self._running if index is None else self._running[[index]]).snapshot()
        if path is not None:
            write_bytes(Path(path), data)
        return data

    def restore(self, snapshot: bytes | str | Path) -> tuple[Any, _Infos]:
        """Go on from a `snapshot` of ``num_envs`` worlds, bytes or file; returns what `reset` returns.

        Raises:
            WorldFormatError: the bytes are damaged, or hold something else.
            ValueError: they hold another number of episodes, or another kind of world.
            OSError: the file cannot be read.
        """
        self._check_open()
        self._episodes = self.imagination.restore(read_snapshot(snapshot), self.num_envs)
        return self.imagination.observe(self._episodes), self._infos(self._episodes)

    def set_pose(self, poses: Any) -> tuple[Any, _Infos]:
        """Go to canonical ``poses`` (num_envs, 5) at once; returns what the worlds imagine there. No step is counted.

        Raises:
            ValueError: poses of another shape, or not finite.
        """
        self._episodes = self.imagination.moved_to(self._running, poses)
        return self.imagination.observe(self._episodes), self._infos(self._episodes)

    def remember(self, frames: NDArray[np.uint8], poses: Any) -> None:
        """Put real pictures (num_envs, H, W, 3), seen from ``poses`` (num_envs, 5), into the worlds' memories.

        Raises:
            ValueError: worlds without a long-term memory, or pictures or poses that do not fit.
        """
        self._episodes = self.imagination.remember(self._running, frames, poses)

    def forget(self, centre: Any, radius: float) -> None:
        """Let every world forget what it saw from within ``radius`` world units of ``centre`` (x, y).

        Raises:
            ValueError: worlds without a long-term memory, a centre that is no point, or a radius not above 0.
        """
        self._episodes = self.imagination.forget(self._running, centre, radius)

    def close_extras(self, **kwargs: Any) -> None:
        """Let go of all episodes; what is called after `close` raises."""
        self._episodes = None

    @property
    def _running(self) -> Episodes:
        self._check_open()
        if self._episodes is None:
            raise gym.error.ResetNeeded("No episodes have begun: call reset() first.")
        return self._episodes

    def _check_open(self) -> None:
        if self.closed:
            raise gym.error.ClosedEnvironmentError("This environment is closed: make another one.")

    def _reset_mask(self, mask: Any) -> NDArray[np.bool_]:
        if mask is None:
            return np.ones(self.num_envs, dtype=np.bool_)
        array = np.asarray(mask)
        if array.dtype != np.bool_ or array.shape != (self.num_envs,) or not array.any():
            raise ValueError(
                f"reset_mask is a boolean array of shape ({self.num_envs},) with at least one True; "
                f"got {mask!r}."
            )
        return array

    def _next_seeds(self, seed: int | Sequence[int | None] | None) -> tuple[Tensor, Tensor]:
        """Seeds and episode numbers (num_envs,) of the next episodes, were all worlds reset."""
        if isinstance(seed, int | np.integer):
            super().reset(seed=int(seed))
            given: list[int | None] = [int(seed) + i for i in range(self.num_envs)]
        else:
            given = [None] * self.num_envs if seed is None else list(seed)
        if len(given) != self.num_envs:
            raise ValueError(f"Expected one seed for each of {self.num_envs} worlds, got {len(given)}.")
        running, device = self._episodes, self.imagination.world.device
        if running is None:
            seeds = torch.from_numpy(self.np_random.integers(2**63 - 1, size=self.num_envs)).to(device)
            numbers = torch.zeros_like(seeds)
        else:
            seeds, numbers = running.seed.clone(), running.episode + 1
        for i, value in enumerate(given):
            if value is not None:
                seeds[i], numbers[i] = draw_seed(seeding.np_random(value)[0]), 0
        return seeds, numbers

    def _infos(self, episodes: Episodes, mask: NDArray[np.bool_] | None = None) -> _Infos:
        infos: _Infos = {}
        for name, values in self.imagination.info(episodes).items():
            infos[name] = values
            infos[f"_{name}"] = np.ones(self.num_envs, dtype=np.bool_) if mask is None else mask.copy()
            if mask is not None:
                values[~mask] = 0
        return infos


def _arrays(outcome: Outcome) -> tuple[_Array, _Array, _Array]:
    """Rewards (B,) float64, terminations and truncations (B,) bool, for callers to keep and to change."""
    return copied(outcome.reward, np.float64), copied(outcome.terminated), copied(outcome.truncated)
