"""Imagined episodes as pure functions: what the scalar and the vector environment have in common.

A learned world knows states and steps; an environment knows episodes. `Imagination` begins and steps
`Episodes` and remembers nothing, so an environment is saved, restored or forked by handling its `Episodes`.
"""

from __future__ import annotations

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
from ..world_models.pretrained import load_world
from ..world_models.state import WorldState
from ..world_models.world import World
from .contexts import CONTEXTS_FILE, Contexts
from .episodes import Episodes

Observation = Literal["frame", "latent"]

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
        observation: ``"frame"``: (H, W, 3) uint8; ``"latent"``: (C, h, w) float32, nothing is decoded.
        device: where to load a world given by name.
        overrides: of its configuration, as `load_world` takes them.
        render_mode: ``"rgb_array"`` or None; only checked here.

    Raises:
        ConfigError: an unknown observation or render mode, a time limit below 1, or contexts that do not fit
            the world.
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
    ) -> None:
        if render_mode not in (None, "rgb_array"):
            raise ConfigError(f"render_mode is 'rgb_array' or None; got {render_mode!r}.")
        if observation not in get_args(Observation):
            raise ConfigError(
                f"observation is one of {', '.join(get_args(Observation))}; got {observation!r}."
            )
        if max_episode_steps is not None and max_episode_steps < 1:
            raise ConfigError(
                f"max_episode_steps is at least 1, or None for no limit; got {max_episode_steps}."
            )
        self.world = _load(world, device, overrides or {})
        self.contexts = _contexts(contexts, self.world)
        self.max_episode_steps = max_episode_steps
        self.observation = observation
        self.action_space = action_space(self.world.actions)
        self._recent_shape = tuple(self.world.start(1).latents.shape[1:])
        self.observation_space = (
            gym.spaces.Box(-np.inf, np.inf, self._recent_shape[1:], np.float32)
            if observation == "latent"
            else gym.spaces.Box(0, 255, (*self.world.frame_size, 3), np.uint8)
        )

    def begin(
        self, seed: Tensor, episode: Tensor, context: Tensor | None = None, state: WorldState | None = None
    ) -> Episodes:
        """B new episodes.

        Args:
            seed: (B,) int64.
            episode: (B,) int64, episodes begun with that seed before; with the seed it decides everything
                drawn.
            context: (B,) int64, which recorded starts; default: drawn.
            state: continue these B worlds instead, noise included.

        Raises:
            ValueError: a context that does not exist, or a state of another batch size or kind of world.
        """
        key = hash64(hash64(seed) ^ episode)
        b, device = len(seed), self.world.device
        if state is not None:
            self._check_state(state, b)
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
            done=torch.zeros(b, dtype=torch.bool, device=device),
        )

    def begin_next(self, episodes: Episodes) -> Episodes:
        """The episodes that follow ``episodes``, from the same seeds."""
        return self.begin(episodes.seed, episodes.episode + 1)

    def step(self, episodes: Episodes, actions: Any) -> tuple[Episodes, Outcome]:
        """One imagined step of B episodes.

        An episode terminates where the world is more likely to end than to go on (continues < 0.5), and is
        truncated at the time limit.

        Args:
            episodes: B of them.
            actions: (B, ...) in `action_space`.

        Raises:
            ValueError: an action outside the space.
        """
        with torch.no_grad():
            world, step = self.world.imagine(episodes.world, actions)
        elapsed = episodes.elapsed + 1
        terminated = step.continues < 0.5
        limit = self.max_episode_steps
        truncated = torch.zeros_like(terminated) if limit is None else elapsed >= limit
        after = replace(
            episodes,
            world=world,
            elapsed=elapsed,
            uncertainty=step.uncertainty,
            done=terminated | truncated,
        )
        return after, Outcome(step.reward, terminated, truncated)

    def observe(self, episodes: Episodes) -> NDArray[Any]:
        """Observations (B, ...) of the newest frame of each episode."""
        if self.observation == "latent":
            return _copy(episodes.world.latents[:, -1].to(torch.float32))
        return self.render(episodes)

    def render(self, episodes: Episodes) -> NDArray[np.uint8]:
        """Pictures (B, H, W, 3) uint8 of the newest frame of each episode."""
        with torch.no_grad():
            return _copy(self.world.render(episodes.world.latents[:, -1]))

    def info(self, episodes: Episodes) -> dict[str, NDArray[Any]]:
        """Of B episodes: pose (B, 5) float64, uncertainty (B,) float64, context (B,) int64."""
        return {
            "pose": _copy(episodes.world.pose),
            "uncertainty": _copy(episodes.uncertainty.to(torch.float64)),
            "context": _copy(episodes.context),
        }

    def restore(self, data: bytes, batch_size: int) -> Episodes:
        """The ``batch_size`` episodes of a snapshot.

        Raises:
            WorldFormatError: the bytes are damaged, or hold something else.
            ValueError: episodes of another kind of world, or another number of them.
        """
        episodes = Episodes.restore(data, self.world.device)
        self._check_state(episodes.world, batch_size)
        return episodes

    def _check_state(self, state: WorldState, batch_size: int) -> None:
        if state.batch_size != batch_size or tuple(state.latents.shape[1:]) != self._recent_shape:
            raise ValueError(
                f"Expected the state of {batch_size} worlds with recent latents {self._recent_shape}, "
                f"got {state.batch_size} with {tuple(state.latents.shape[1:])}."
            )
        if not bool(state.valid[:, -1].all()):
            raise ValueError(
                "A world that has seen nothing cannot be continued; let it observe a frame first."
            )


def action_space(spec: ActionSpec) -> gym.spaces.Discrete | gym.spaces.Box:
    """The Gymnasium space of one action."""
    if spec.kind == "discrete":
        return gym.spaces.Discrete(spec.n)
    return gym.spaces.Box(-1.0, 1.0, spec.shape, np.float32)


def draw_seed(generator: np.random.Generator) -> int:
    """A 63-bit seed of imagined episodes from an environment's own generator."""
    return int(generator.integers(2**63 - 1))


def read_options(options: dict[str, Any] | None, batch_size: int) -> tuple[Tensor | None, WorldState | None]:
    """``context`` and ``state`` of the options of a reset of ``batch_size`` worlds.

    Raises:
        ValueError: both given, an unknown option, a context that is no index, or another number of worlds.
    """
    options = dict(options or {})
    context, state = options.pop("context", None), options.pop("state", None)
    if options:
        raise ValueError(
            f"Unknown reset options {sorted(options)}; this environment knows 'context' and 'state'."
        )
    if context is not None and state is not None:
        raise ValueError(
            "An episode starts from a recorded context or from a state: give one of the two options."
        )
    if isinstance(state, bytes):
        state = WorldState.restore(state)
    if state is not None and state.batch_size != batch_size:
        raise ValueError(f"The option 'state' needs {batch_size} worlds, got {state.batch_size}.")
    if context is None:
        return None, state
    indices = np.asarray(context)
    if not np.issubdtype(indices.dtype, np.integer) or indices.shape not in ((), (batch_size,)):
        raise ValueError(f"The option 'context' is an index, or {batch_size} of them; got {context!r}.")
    return torch.from_numpy(np.array(np.broadcast_to(indices, batch_size), dtype=np.int64)), state


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
