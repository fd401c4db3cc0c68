"""Imagined episodes as pure functions: what the scalar and the vector environment have in common.

A learned world knows states and steps; an environment knows episodes. `Imagination` begins and steps
`Episodes` and remembers nothing, so an environment is saved, restored or forked by handling its `Episodes`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import ConfigError
from ..world_models.actions import ActionSpec
from ..world_models.noise import hash64
from ..world_models.pose import POSE_DIM
from ..world_models.pretrained import load_world
from ..world_models.state import WorldState
from ..world_models.world import ImaginedStep, World
from .contexts import CONTEXTS_FILE, Contexts
from .episodes import Episodes
from .experience import Experience, experience_of
from .thresholds import calibrated_threshold
from .uncertainty import MaxUncertainty, Uncertainty, check_uncertainty, doubt

ObservationName = Literal["frame", "latent", "pose", "state"]
Observation = ObservationName | Sequence[ObservationName]
"""What is observed of the newest frame: ``"frame"`` (H, W, 3) uint8; ``"latent"`` (C, h, w) float32, without decoding
anything; ``"pose"`` (5,) float64; ``"state"`` (D,) float32, where the world has a state space; or several of them, as a
dict."""

NO_CONTEXT = -1
"""Context index of an episode that was started from a state instead."""

_WORLD_SEED, _CONTEXT = 1, 2


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
    ) -> None:
        if render_mode not in (None, "rgb_array"):
            raise ConfigError(f"render_mode is 'rgb_array' or None; got {render_mode!r}.")
        if max_episode_steps is not None and max_episode_steps < 1:
            raise ConfigError(f"max_episode_steps is at least 1, or None for no limit; got {max_episode_steps}.")
        limit = max_uncertainty
        if limit != "calibrated" if isinstance(limit, str) else limit is not None and not limit > 0:
            raise ConfigError(f"max_uncertainty is above 0, 'calibrated', or None for no limit; got {limit!r}.")
        names = (observation,) if isinstance(observation, str) else tuple(observation)
        if not names or len(set(names)) < len(names) or not set(names) <= set(get_args(ObservationName)):
            raise ConfigError(
                f"observation is one of {', '.join(get_args(ObservationName))}, or several; got {observation!r}."
            )
        self.world = _load(world, device, overrides or {})
        check_uncertainty(uncertainty, uncertainty_samples, self.world)
        self.contexts = _contexts(contexts, self.world)
        self.max_episode_steps = max_episode_steps
        self.observation = observation
        self.max_uncertainty: float | None = (
            calibrated_threshold(self.world, uncertainty, uncertainty_samples) if isinstance(limit, str) else limit
        )
        self.retrieved = retrieved
        self._names: tuple[str, ...] = names
        self._uncertainty, self._samples = uncertainty, uncertainty_samples
        self.action_space = action_space(self.world.actions)
        self._still = still_action(self.world.actions)
        self._recent_shape = tuple(self.world.start(1).latents.shape[1:])
        spaces: dict[str, gym.Space[Any]] = {
            "frame": gym.spaces.Box(0, 255, (*self.world.frame_size, 3), np.uint8),
            "latent": gym.spaces.Box(-np.inf, np.inf, self._recent_shape[1:], np.float32),
            "pose": gym.spaces.Box(-np.inf, np.inf, (POSE_DIM,), np.float64),
        }
        if "state" in names:
            if not self.world.state_size:
                raise ConfigError("This world has no state space, so its states cannot be observed; train one.")
            spaces["state"] = gym.spaces.Box(-np.inf, np.inf, (self.world.state_size,), np.float32)
        self.observation_space: gym.Space[Any] = (
            spaces[observation] if isinstance(observation, str) else gym.spaces.Dict({n: spaces[n] for n in names})
        )

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
            episode: (B,) int64, episodes begun with that seed before; with the seed it decides everything
                drawn.
            context: (B,) int64, which recorded starts; default: drawn.
            state: continue these B worlds instead, noise included.
            experience: begin all B episodes after this instead.

        Raises:
            ValueError: a context that does not exist, a state of another batch size or kind of world, or experience
                that does not fit the world.
        """
        key = hash64(hash64(seed) ^ episode)
        b, device = len(seed), self.world.device
        if state is not None:
            state = self._adopted(state, b)
            context = torch.full((b,), NO_CONTEXT, dtype=torch.int64, device=device)
        elif experience is not None:
            with torch.no_grad():
                state = self.world.observe(
                    self.world.start(1), experience.frames[None], experience.actions[None], experience.poses[None]
                )
            state = state.fork(b).with_seeds(hash64(key ^ _WORLD_SEED))
            context = torch.full((b,), NO_CONTEXT, dtype=torch.int64, device=device)
        else:
            if context is None:
                context = hash64(key ^ _CONTEXT).remainder(len(self.contexts))
            elif not bool(((context >= 0) & (context < len(self.contexts))).all()):
                raise ValueError(f"Contexts are 0 … {len(self.contexts) - 1}; got {context.tolist()}.")
            rows = context.cpu().numpy()
            with torch.no_grad():
                state = self.world.observe(
                    self.world.start(b, hash64(key ^ _WORLD_SEED)),
                    torch.from_numpy(self.contexts.frames[rows]),
                    torch.from_numpy(self.contexts.actions[rows]),
                    torch.from_numpy(self.contexts.poses[rows]),
                )
        return Episodes(
            world=state.to(device),
            seed=seed,
            episode=episode,
            elapsed=torch.zeros_like(seed),
            context=context,
            uncertainty=torch.zeros(b, device=device),
            retrieved_times=torch.full((b, self.world.retrieves), -1, dtype=torch.int64, device=device),
            retrieved_poses=state.pose.to(device).unsqueeze(1).expand(-1, self.world.retrieves, -1),
            done=torch.zeros(b, dtype=torch.bool, device=device),
        )

    def begin_next(self, episodes: Episodes) -> Episodes:
        """The episodes that follow ``episodes``, from the same seeds."""
        return self.begin(episodes.seed, episodes.episode + 1)

    def step(self, episodes: Episodes, actions: Any) -> tuple[Episodes, Outcome]:
        """One imagined step of B episodes.

        An episode terminates where the world is more likely to end than to go on (continues < 0.5), and is truncated at
        the time limit and where the world is less sure than it must be.

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
        terminated = step.continues < 0.5
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
        return after, Outcome(step.reward, terminated, truncated)

    def _doubt(self, before: WorldState, actions: Any, step: ImaginedStep) -> Tensor:
        return doubt(self._uncertainty, self.world, before, actions, step, self._samples)

    def observe(self, episodes: Episodes) -> Any:
        """Observations (B, ...) of the newest frame of each episode; a dict of them where several were asked for."""
        seen = {name: self._observe(episodes, name) for name in self._names}
        return seen[self._names[0]] if isinstance(self.observation, str) else seen

    def _observe(self, episodes: Episodes, name: str) -> NDArray[Any]:
        if name == "frame":
            return self.render(episodes)
        if name == "state":
            with torch.no_grad():
                return _copy(self.world.encode_state(episodes.world))
        return _copy(episodes.world.pose if name == "pose" else episodes.world.latents[:, -1].to(torch.float32))

    def render(self, episodes: Episodes) -> NDArray[np.uint8]:
        """Pictures (B, H, W, 3) uint8 of the newest frame of each episode."""
        with torch.no_grad():
            return _copy(self.world.render(episodes.world.latents[:, -1]))

    def info(self, episodes: Episodes) -> dict[str, NDArray[Any]]:
        """Of B episodes: pose (B, 5) float64, uncertainty (B,) float64, context (B,) int64, and on request retrieved
        (B, R) int64 and retrieved_poses (B, R, 5) float64."""
        known = {
            "pose": _copy(episodes.world.pose),
            "uncertainty": _copy(episodes.uncertainty.to(torch.float64)),
            "context": _copy(episodes.context),
        }
        if self.retrieved:
            known["retrieved"] = _copy(episodes.retrieved_times)
            known["retrieved_poses"] = _copy(episodes.retrieved_poses)
        return known

    def restore(self, data: bytes, batch_size: int) -> Episodes:
        """The ``batch_size`` episodes of a snapshot.

        Raises:
            WorldFormatError: the bytes are damaged, or hold something else.
            ValueError: episodes of another kind of world, or another number of them.
        """
        episodes = Episodes.restore(data, self.world.device)
        episodes = replace(episodes, world=self._adopted(episodes.world, batch_size))
        found, own = episodes.retrieved_times.shape[1], self.world.retrieves
        if found != own:
            raise ValueError(f"This snapshot's world looks up {found} frames a step; this one looks up {own}.")
        return episodes

    def moved_to(self, episodes: Episodes, poses: Any) -> Episodes:
        """The same episodes elsewhere: the worlds imagine what is seen from canonical ``poses`` (B, 5).

        Raises:
            ValueError: poses of another shape, or not finite.
        """
        still = np.repeat(self._still, len(episodes), 0)
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

    def _adopted(self, state: WorldState, batch_size: int) -> WorldState:
        if state.batch_size != batch_size:
            raise ValueError(f"Expected the state of {batch_size} worlds, got {state.batch_size}.")
        with torch.no_grad():
            state = self.world.adopt(state)
        if not bool(state.valid[:, -1].all()):
            raise ValueError(
                "A world that has seen nothing cannot be continued; let it observe a frame first."
            )
        return state


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
            f"This world knows {spec.n} {spec.kind} actions ({', '.join(spec.names)}), "
            f"the environment has {space}."
        )


def still_action(spec: ActionSpec) -> NDArray[Any]:
    """(1, ...) the action that moves least."""
    if spec.kind == "discrete":
        return np.array([int(np.abs(np.array(spec.motion)).sum(1).argmin())])
    return np.zeros((1, *spec.shape), np.float32)


def draw_seed(generator: np.random.Generator) -> int:
    """A 63-bit seed of imagined episodes from an environment's own generator."""
    return int(generator.integers(2**63 - 1))


def read_options(
    options: dict[str, Any] | None, batch_size: int
) -> tuple[Tensor | None, WorldState | None, Experience | None]:
    """``context``, ``state`` and ``experience`` of the options of a reset of ``batch_size`` worlds.

    Raises:
        ValueError: several given, an unknown option, a context that is no index, or another number of worlds.
        ConfigError: something that is no experience and keeps none.
    """
    options = dict(options or {})
    context, state, experience = (options.pop(name, None) for name in ("context", "state", "experience"))
    if options:
        raise ValueError(
            f"Unknown reset options {sorted(options)}; this environment knows 'context', 'state' and 'experience'."
        )
    if sum(start is not None for start in (context, state, experience)) > 1:
        raise ValueError("An episode starts from a recorded context, a state or experience: give one of the options.")
    if experience is not None:
        return None, None, experience_of(experience)
    if isinstance(state, bytes):
        state = WorldState.restore(state)
    if state is not None and state.batch_size != batch_size:
        raise ValueError(f"The option 'state' needs {batch_size} worlds, got {state.batch_size}.")
    if context is None:
        return None, state, None
    indices = np.asarray(context)
    if not np.issubdtype(indices.dtype, np.integer) or indices.shape not in ((), (batch_size,)):
        raise ValueError(f"The option 'context' is an index, or {batch_size} of them; got {context!r}.")
    return torch.from_numpy(np.array(np.broadcast_to(indices, batch_size), dtype=np.int64)), None, None


def _copy(tensor: Tensor) -> NDArray[Any]:
    # On a CPU, Tensor.numpy() shares memory: a caller who edits an observation would edit the world.
    return np.array(tensor.cpu().numpy())


def _load(world: str | Path | World, device: str, overrides: dict[str, Any]) -> World:
    if isinstance(world, str | Path):
        return load_world(world, device=device, **overrides)
    if overrides:
        raise ConfigError("overrides change a world that is loaded by name; this one is loaded already.")
    return world


def _contexts(contexts: str | Path | Contexts | None, world: World) -> Contexts:
    if contexts is None:
        directory = getattr(world, "directory", None)
        if directory is None:
            raise ConfigError(
                "This world came without recorded starts: pass contexts=, a file or a Contexts "
                "(Contexts.from_dataset makes one)."
            )
        contexts = Path(directory) / CONTEXTS_FILE
    if not isinstance(contexts, Contexts):
        contexts = Contexts.load(contexts)
    if contexts.frame_size != tuple(world.frame_size):
        raise ConfigError(
            f"The recorded starts have frames of {contexts.frame_size} pixels, "
            f"this world sees {tuple(world.frame_size)}; pass contexts recorded at its size."
        )
    if contexts.action_spec.kind != world.actions.kind or contexts.action_spec.n != world.actions.n:
        raise ConfigError(
            f"The recorded starts have {contexts.action_spec.n} {contexts.action_spec.kind} actions, "
            f"this world {world.actions.n} {world.actions.kind}; pass contexts recorded with its actions."
        )
    return contexts
