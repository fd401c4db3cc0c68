"""What imagined episodes start from: recorded starts, the state of a world, or experience."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import ConfigError
from ..world_models.noise import hash64
from ..world_models.state import WorldState
from ..world_models.world import World
from .contexts import CONTEXTS_FILE, Contexts
from .experience import Experience, experience_of

NO_CONTEXT = -1
"""Context index of an episode that was started from a state instead."""

_WORLD_SEED, _CONTEXT = 1, 2


class Starts:
    """The worlds that new episodes begin with.

    Attributes:
        contexts: the recorded starts.

    Args:
        world: a learned world.
        contexts: recorded starts, or the file that holds them; default: those that came with the world.

    Raises:
        ConfigError: there are none, or they do not fit the world.
        DataError: no such contexts.
    """

    def __init__(self, world: World, contexts: str | Path | Contexts | None) -> None:
        self._world, self.contexts = world, _contexts(contexts, world)

    def worlds(
        self,
        key: Tensor,
        context: Tensor | None = None,
        state: WorldState | None = None,
        experience: Experience | None = None,
    ) -> tuple[WorldState, Tensor]:
        """B worlds, and the recorded start (B,) int64 of each.

        Args:
            key: (B,) int64 that decides everything drawn.
            context: (B,) int64, which recorded starts; default: drawn.
            state: continue these B worlds instead, noise included.
            experience: begin all B after this instead.

        Raises:
            ValueError: a context that does not exist, a state of another batch size or kind of world, or experience
                that does not fit the world.
        """
        world, b = self._world, len(key)
        if state is not None:
            state = self.adopted(state, b)
        elif experience is not None:
            with torch.no_grad():
                state = world.observe(
                    world.start(1), experience.frames[None], experience.actions[None], experience.poses[None]
                )
            state = state.fork(b).with_seeds(hash64(key ^ _WORLD_SEED))
        else:
            if context is None:
                context = hash64(key ^ _CONTEXT).remainder(len(self.contexts))
            elif not bool(((context >= 0) & (context < len(self.contexts))).all()):
                raise ValueError(f"Contexts are 0 … {len(self.contexts) - 1}; got {context.tolist()}.")
            rows = context.cpu().numpy()
            with torch.no_grad():
                state = self.contexts.observed(world, world.start(b, hash64(key ^ _WORLD_SEED)), rows)
            return state.to(world.device), context
        return state.to(world.device), torch.full((b,), NO_CONTEXT, dtype=torch.int64, device=world.device)

    def adopted(self, state: WorldState, batch_size: int) -> WorldState:
        """``state`` as one of this world.

        Raises:
            ValueError: it is of another kind of world or batch size, or has seen nothing.
        """
        if state.batch_size != batch_size:
            raise ValueError(f"Expected the state of {batch_size} worlds, got {state.batch_size}.")
        with torch.no_grad():
            state = self._world.adopt(state)
        if not bool(state.valid[:, -1].all()):
            raise ValueError("A world that has seen nothing cannot be continued; let it observe a frame first.")
        return state


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


def _contexts(contexts: str | Path | Contexts | None, world: World) -> Contexts:
    if contexts is None:
        directory = getattr(world, "directory", None)
        if directory is None:
            raise ConfigError(
                "This world came without recorded starts: pass contexts=, a file or a Contexts "
                "(Contexts.from_dataset makes one)."
            )
        own, shared = Path(directory) / CONTEXTS_FILE, Path(directory).parent / CONTEXTS_FILE
        contexts = shared if shared.exists() and not own.exists() else own
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
