"""Imagined experience: from recorded starts, a policy lives some steps in the world."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..envs.contexts import Contexts
from ..errors import ConfigError
from ..world_models.evidence import novelty
from ..world_models.noise import hash64, uniform
from ..world_models.state import WorldState
from ..world_models.state_space import CARRIED
from ..world_models.training.chance import Chance
from ..world_models.world import World

_OBSERVED_AT_ONCE = 32
_CHOICE, _WORLD_SEED, _ACTION = 1, 2, 3


class Acts(Protocol):
    """Chooses actions from state vectors."""

    def act(self, vectors: Tensor, uniform: Tensor) -> Tensor:
        """Actions (B, ...) in states (B, D), by random numbers (B, n) in (0, 1), n those of `ActionSpec.n`."""


@dataclass(frozen=True)
class ImaginedBatch:
    """H steps of B imagined worlds.

    Attributes:
        vectors: (B, H + 1, D) states s_0 … s_H.
        actions: (B, H, ...), ``actions[:, t]`` taken in s_t.
        rewards: (B, H), of the step to s_{t+1}.
        continues: (B, H) in [0, 1], the probability that the episode goes on at s_{t+1}.
        uncertainty: (B, H), how unsure the world is of the step to s_{t+1}.
        draws: (B, H, n) in (0, 1), the random numbers that actions were drawn by.
        latents: (F, H + 1, C, h, w) of the first F worlds, for pictures.
    """

    vectors: Tensor
    actions: Tensor
    rewards: Tensor
    continues: Tensor
    uncertainty: Tensor
    draws: Tensor
    latents: Tensor


class ObservedStarts:
    """Recorded starts that a world has observed (burn-in): imagined roll-outs begin where they end.

    A world that has no state vectors cannot teach an agent; one whose starts are of other frames or actions neither.

    Args:
        world: that observes, and that roll-outs will be imagined in.
        contexts: N recorded starts.

    Raises:
        ConfigError: the world has no state space, or the starts do not fit it.
    """

    def __init__(self, world: World, contexts: Contexts) -> None:
        check_states(world)
        if contexts.frame_size != tuple(world.frame_size):
            raise ConfigError(
                f"The recorded starts have frames of {contexts.frame_size} pixels, "
                f"this world sees {tuple(world.frame_size)}."
            )
        if contexts.action_spec != world.actions:
            raise ConfigError(
                f"The recorded starts have the actions {', '.join(contexts.action_spec.names)}, "
                f"this world {', '.join(world.actions.names)}."
            )
        self.world, self.contexts = world, contexts
        # Observing draws no noise: worlds observed once can be given any seed later.
        with torch.no_grad():
            self._states = WorldState.cat([self._observe(part) for part in self._parts()])

    def __len__(self) -> int:
        """N."""
        return len(self.contexts)

    def draw(self, batch_size: int, seed: int, step: int) -> WorldState:
        """B worlds that have observed starts drawn evenly, with seeds of their own; a function of the arguments."""
        chance = Chance.of(seed, step, batch_size, self.world.device)
        rows = (chance.even(_CHOICE, 1)[:, 0] * len(self)).long().clamp(max=len(self) - 1)
        seeds = hash64(hash64(chance.counter) ^ seed ^ hash64(torch.full_like(chance.counter, _WORLD_SEED)))
        return self._states[rows].with_seeds(seeds)

    def _parts(self) -> list[NDArray[np.int64]]:
        return np.array_split(np.arange(len(self)), -(-len(self) // _OBSERVED_AT_ONCE))

    def _observe(self, rows: NDArray[np.int64]) -> WorldState:
        return self.contexts.observed(self.world, self.world.start(len(rows)), rows)


def check_states(world: World) -> None:
    """Refuse a world that agents cannot see.

    Raises:
        ConfigError: it has no state space.
    """
    if not world.state_size:
        raise ConfigError("Agents see state vectors, and this world has none; train its state space (--state.steps).")


def tokens_of(world: World, asked: bool) -> tuple[int, int] | None:
    """T and W of the tokens that state vectors begin with, where it is ``asked`` that they are seen token by token.

    Raises:
        ConfigError: they have none.
    """
    tokens: tuple[int, int] | None = getattr(world, "state_tokens", None) if asked else None
    if asked and tokens is None:
        raise ConfigError("The states of this world have no tokens: leave out tokens.")
    return tokens


def perceived_anew(world: World, state: WorldState) -> WorldState:
    """``state`` with state vectors made by the world's encoder as it is now, so that gradients reach it."""
    carried = {name: tensor for name, tensor in state.carried.items() if name != CARRIED}
    return world.adopt(replace(state, carried=carried))


def roll_out(
    world: World, state: WorldState, policy: Acts, horizon: int, films: int = 0, curiosity: float = 0.0
) -> ImaginedBatch:
    """``horizon`` steps of B worlds under a policy, which sees states without gradient.

    A world's actions are drawn by its seed and step, so that it lives the same life in a batch and alone. Gradients
    flow along the dynamics of a differentiable world; call it under ``torch.no_grad()`` where none are wanted.

    Args:
        world: where to imagine.
        state: B worlds that have seen something.
        policy: chooses actions.
        horizon: H.
        films: F, worlds whose latents are kept.
        curiosity: added to the reward of every step, times how new to memory the place is that it leads to, see
            `novelty`; needs a world that remembers what it imagines.
    """
    vectors, actions, rewards, continues, unsure, drawn = [world.encode_state(state)], [], [], [], [], []
    latents = [state.latents[:films, -1]]
    for _ in range(horizon):
        drawn.append(draws(state, world.actions.n))
        action = policy.act(vectors[-1].detach(), drawn[-1])
        before = state
        state, step = world.imagine(before, action)
        vectors.append(world.encode_state(state))
        actions.append(action)
        rewards.append(step.reward + curiosity * novelty(before, step.pose) if curiosity else step.reward)
        continues.append(step.continues)
        unsure.append(step.uncertainty)
        latents.append(step.latents[:films])
    return ImaginedBatch(
        torch.stack(vectors, 1),
        torch.stack(actions, 1),
        torch.stack(rewards, 1),
        torch.stack(continues, 1),
        torch.stack(unsure, 1),
        torch.stack(drawn, 1),
        torch.stack(latents, 1).detach(),
    )


def draws(state: WorldState, n: int) -> Tensor:
    """(B, n) random numbers in (0, 1) to choose the next actions of B worlds by."""
    return uniform(state.seeds, state.step, (n,), _ACTION)
