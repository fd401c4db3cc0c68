"""Imagined episodes as pure functions: what the scalar and the vector environment have in common.

A learned world knows states and steps; an environment knows episodes. `Imagination` begins and steps
`Episodes` and remembers nothing, so an environment is saved, restored or forked by handling its `Episodes`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import ConfigError
from ..world_models.actions import ActionSpec
from ..world_models.evidence import novelty
from ..world_models.noise import hash64, uniform
from ..world_models.pretrained import load_world
from ..world_models.state import WorldState
from ..world_models.world import ImaginedStep, World
from ..world_models.world_model import WorldModel
from .contexts import Contexts
from .episodes import Episodes
from .experience import Experience
from .observations import Observation, Observer, copied
from .starts import Starts
from .thresholds import calibrated_threshold
from .uncertainty import MaxUncertainty, Uncertainty, check_uncertainty, doubt

_END = 4
"""Stream of the draw that ends episodes."""


@dataclass(frozen=True)
class Outcome:
    """What one step paid, for B episodes: reward (B,) float32, terminated (B,) bool, truncated (B,) bool."""

    reward: Tensor
    terminated: Tensor
    truncated: Tensor


class Imagination:
    """Begins, steps and shows imagined episodes.

    Args:
        world: a learned world, or the name or directory of one.
        contexts: recorded starts, or the file that holds them; default: those that came with the world.
        max_episode_steps: time limit, None for none.
        observation: what is observed, see `Observation`.
        device: where to load a world given by name.
        overrides: of its configuration, as `load_world` takes them.
        render_mode: ``"rgb_array"`` or None; only checked here.
        uncertainty: what ``info["uncertainty"]`` is, see `Uncertainty`.
        uncertainty_samples: noise seeds that ``"disagreement"`` compares.
        max_uncertainty: an episode is truncated where its uncertainty passes this; None for never; ``"calibrated"``:
            the threshold that `calibrated_threshold` finds beside the world.
        curiosity: added to the reward of every step, times how new to memory the place is that it leads to, 0 to 1 (see
            `novelty`). What is imagined is remembered: a place is new once.
        retrieved: tell in ``info`` which frames memory gave for the newest one: ``retrieved`` (R,) int64, the steps at
            which they were seen (-1 for none), and ``retrieved_poses`` (R, 5).

    Raises:
        ConfigError: an argument that does not exist, contradicts another one or does not fit the world.
        WorldFormatError: no such world.
        DataError: no such contexts.
    """

    def __init__(
        self,
        world: str | Path | World,
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
        if render_mode not in (None, "rgb_array"):
            raise ConfigError(f"render_mode is 'rgb_array' or None; got {render_mode!r}.")
        if max_episode_steps is not None and max_episode_steps < 1:
            raise ConfigError(f"max_episode_steps is at least 1, or None for no limit; got {max_episode_steps}.")
        limit = max_uncertainty
        if limit != "calibrated" if isinstance(limit, str) else limit is not None and not limit > 0:
            raise ConfigError(f"max_uncertainty is above 0, 'calibrated', or None for no limit; got {limit!r}.")
        self.world = _load(world, device, overrides or {})
        check_uncertainty(uncertainty, uncertainty_samples, self.world)
        check_curiosity(curiosity, self.world)
        self._starts = Starts(self.world, contexts)
        self.contexts = self._starts.contexts
        self.max_episode_steps = max_episode_steps
        self.max_uncertainty: float | None = (
            calibrated_threshold(self.world, uncertainty, uncertainty_samples) if isinstance(limit, str) else limit
        )
        self.retrieved = retrieved
        self.curiosity = curiosity
        self._uncertainty, self._samples = uncertainty, uncertainty_samples
        self.action_space = action_space(self.world.actions)
        self._observer = Observer(self.world, observation)
        self.observation_space = self._observer.space

    def begin(
        self,
        seed: Tensor,
        episode: Tensor,
        context: Tensor | None = None,
        state: WorldState | None = None,
        experience: Experience | None = None,
    ) -> Episodes:
        """B new episodes.

        Args:
            seed: (B,) int64.
            episode: (B,) int64, episodes begun with that seed before; with the seed it decides everything drawn.
            context: (B,) int64, which recorded starts; default: drawn.
            state: continue these B worlds instead, noise included.
            experience: begin all B episodes after this instead.

        Raises:
            ValueError: a context that does not exist, a state of another batch size or kind of world, or experience
                that does not fit the world.
        """
        b, device = len(seed), self.world.device
        state, context = self._starts.worlds(hash64(hash64(seed) ^ episode), context, state, experience)
        return Episodes(
            world=state,
            seed=seed,
            episode=episode,
            elapsed=torch.zeros_like(seed),
            context=context,
            uncertainty=torch.zeros(b, device=device),
            retrieved_times=torch.full((b, self.world.retrieves), -1, dtype=torch.int64, device=device),
            retrieved_poses=state.pose.unsqueeze(1).expand(-1, self.world.retrieves, -1),
            done=torch.zeros(b, dtype=torch.bool, device=device),
        )

    def begin_next(self, episodes: Episodes) -> Episodes:
        """The episodes that follow ``episodes``, from the same seeds."""
        return self.begin(episodes.seed, episodes.episode + 1)

    def step(self, episodes: Episodes, actions: Any) -> tuple[Episodes, Outcome]:
        """One imagined step of B episodes.

        An episode terminates with the probability that the world gives, by a draw that is a function of its seed and
        step: who earns a tenth of a reward for certain also ends one time in ten, and cannot earn it again and again.
        It is truncated at the time limit and where the world is less sure than it must be.

        Args:
            episodes: B of them.
            actions: (B, ...) in `action_space`.

        Raises:
            ValueError: an action outside the space.
        """
        with torch.no_grad():
            world, step = self.world.imagine(episodes.world, actions)
            unsure = self._doubt(episodes.world, actions, step)
        elapsed = episodes.elapsed + 1
        drawn = uniform(episodes.world.seeds, episodes.world.step, (1,), _END)[:, 0]
        terminated = step.continues < drawn
        limit = self.max_episode_steps
        truncated = torch.zeros_like(terminated) if limit is None else elapsed >= limit
        if self.max_uncertainty is not None:
            truncated = truncated | (unsure > self.max_uncertainty)
        after = replace(
            episodes,
            world=world,
            elapsed=elapsed,
            uncertainty=unsure,
            retrieved_times=step.retrieved_times,
            retrieved_poses=step.retrieved_poses,
            done=terminated | truncated,
        )
        reward = step.reward
        if self.curiosity:
            reward = reward + self.curiosity * novelty(episodes.world, step.pose)
        return after, Outcome(reward, terminated, truncated)

    def _doubt(self, before: WorldState, actions: Any, step: ImaginedStep) -> Tensor:
        return doubt(self._uncertainty, self.world, before, actions, step, self._samples)

    def observe(self, episodes: Episodes) -> Any:
        """Observations (B, ...) of the newest frame of each episode; a dict of them where several were asked for."""
        return self._observer.observe(episodes.world)

    def render(self, episodes: Episodes) -> NDArray[np.uint8]:
        """Pictures (B, H, W, 3) uint8 of the newest frame of each episode."""
        return self._observer.picture(episodes.world)

    def info(self, episodes: Episodes) -> dict[str, NDArray[Any]]:
        """Of B episodes: pose (B, 5) float64, uncertainty (B,) float64, context (B,) int64, and on request retrieved
        (B, R) int64 and retrieved_poses (B, R, 5) float64."""
        known = {
            "pose": copied(episodes.world.pose),
            "uncertainty": copied(episodes.uncertainty, np.float64),
            "context": copied(episodes.context),
        }
        if self.retrieved:
            known["retrieved"] = copied(episodes.retrieved_times)
            known["retrieved_poses"] = copied(episodes.retrieved_poses)
        return known

    def restore(self, data: bytes, batch_size: int) -> Episodes:
        """The ``batch_size`` episodes of a snapshot.

        Raises:
            WorldFormatError: the bytes are damaged, or hold something else.
            ValueError: episodes of another kind of world, or another number of them.
        """
        episodes = Episodes.restore(data, self.world.device)
        episodes = replace(episodes, world=self._starts.adopted(episodes.world, batch_size))
        found, own = episodes.retrieved_times.shape[1], self.world.retrieves
        if found != own:
            raise ValueError(f"This snapshot's world looks up {found} frames a step; this one looks up {own}.")
        return episodes

    def moved_to(self, episodes: Episodes, poses: Any) -> Episodes:
        """The same episodes elsewhere: the worlds imagine what is seen from canonical ``poses`` (B, 5).

        Raises:
            ValueError: poses of another shape, or not finite.
        """
        still = np.repeat(self.world.actions.still[None], len(episodes), 0)
        with torch.no_grad():
            world, step = self.world.imagine(episodes.world, still, np.asarray(poses, np.float64))
            unsure = self._doubt(episodes.world, still, step)
        return replace(
            episodes,
            world=world,
            uncertainty=unsure,
            retrieved_times=step.retrieved_times,
            retrieved_poses=step.retrieved_poses,
        )

    def remember(self, episodes: Episodes, frames: Any, poses: Any) -> Episodes:
        """The same episodes with real frames (B, H, W, 3), seen from ``poses`` (B, 5), in the worlds' memories.

        Raises:
            ValueError: a world without a long-term memory, or shapes that do not fit.
        """
        with torch.no_grad():
            world = self.world.remember(episodes.world, np.asarray(frames)[:, None], np.asarray(poses)[:, None])
        return replace(episodes, world=world)

    def forget(self, episodes: Episodes, centre: Any, radius: float) -> Episodes:
        """The same episodes without what was seen from within ``radius`` world units of ``centre``, x and y.

        Raises:
            ValueError: a world without a long-term memory, a centre that is no point, or a radius not above 0.
        """
        point = np.asarray(centre, np.float64)
        if point.shape != (2,) or not np.isfinite(point).all() or not radius > 0:
            raise ValueError(f"A region is a centre (x, y) and a radius above 0; got {centre!r} and {radius!r}.")
        middle = torch.from_numpy(point).to(self.world.device)
        world = episodes.world.forget(lambda poses, times: (poses[..., :2] - middle).norm(dim=-1) <= radius)
        return replace(episodes, world=world)


def action_space(spec: ActionSpec) -> gym.spaces.Discrete | gym.spaces.Box:
    """The Gymnasium space of one action."""
    if spec.kind == "discrete":
        return gym.spaces.Discrete(spec.n)
    return gym.spaces.Box(-1.0, 1.0, spec.shape, np.float32)


def check_fits(world: World, env: gym.Env[Any, Any]) -> None:
    """Refuse a real environment that ``world`` cannot be compared with.

    Raises:
        ConfigError: another frame size, or another action space.
    """
    shape = env.observation_space.shape
    if shape != (*world.frame_size, 3):
        raise ConfigError(f"This world draws frames {(*world.frame_size, 3)}, the real environment {shape}.")
    space, spec = env.action_space, world.actions
    fits = (
        isinstance(space, gym.spaces.Discrete) and int(space.n) == spec.n
        if spec.kind == "discrete"
        else isinstance(space, gym.spaces.Box) and space.shape == spec.shape
    )
    if not fits:
        raise ConfigError(
            f"This world knows {spec.n} {spec.kind} actions ({', '.join(spec.names)}), the environment has {space}."
        )


def draw_seed(generator: np.random.Generator) -> int:
    """A 63-bit seed of imagined episodes from an environment's own generator."""
    return int(generator.integers(2**63 - 1))


def check_curiosity(curiosity: float, world: World) -> None:
    """Refuse to pay for what is new where nothing remembers it.

    Raises:
        ConfigError: less than 0, or a world that does not remember what it imagines.
    """
    in_state_space = isinstance(world, WorldModel) and world.config.imagination == "state"
    if curiosity and (not curiosity > 0 or in_state_space or world.start(1).memory is None):
        raise ConfigError(
            "curiosity is above 0, or 0 for none, and needs a world that remembers what it imagines: with a "
            "long-term memory, and in video."
        )


def _load(world: str | Path | World, device: str, overrides: dict[str, Any]) -> World:
    if isinstance(world, str | Path):
        return load_world(world, device=device, **overrides)
    if overrides:
        raise ConfigError("overrides change a world that is loaded by name; this one is loaded already.")
    return world
