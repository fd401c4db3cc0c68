"""Distributions over plans that solvers sample from and sharpen.

A belief is B independent distributions over plans of L decisions. It is drawn from with counter-based random
numbers (`Draws`) and refitted to weighted candidates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..world_models import noise
from ..world_models.actions import ActionSpec
from .colour import coloured

_PLANNING = 1 << 62
"""Keeps the random numbers of planning apart from those of imagination, which use the same seeds."""


class Draws:
    """Random numbers of one iteration of planning for B worlds.

    They are a function of the solver's seed, the iteration, and each world's seed and step. So a world is
    planned for alike alone and among others, and differently at its next step.
    """

    def __init__(self, seeds: Tensor, step: Tensor, seed: int, iteration: int) -> None:
        self._seeds, self._step = seeds, step
        self._stream = _PLANNING ^ ((seed & 0xFFFF_FFFF) << 28) ^ (iteration << 8)

    def uniform(self, *shape: int) -> Tensor:
        """(B, *shape) float32 in (0, 1); other numbers at every call."""
        self._stream += 1
        numbers: Tensor = noise.uniform(self._seeds, self._step, shape, self._stream)
        return numbers

    def normal(self, *shape: int) -> Tensor:
        """(B, *shape) float32, standard normal; other numbers at every call."""
        numbers: Tensor = torch.special.ndtri(self.uniform(*shape))
        return numbers


class Belief(Protocol):
    """A distribution over plans."""

    def sample(self, draws: Draws, n: int, persistence: float) -> Tensor:
        """n plans (B, n, L, ...) for each world.

        ``persistence`` in [0, 1) makes consecutive decisions alike (without changing how likely each is,
        where the belief is the same at every step): a walker who chooses anew at every step gets nowhere, so
        few such candidates are worth imagining. For vectors it is the correlation of consecutive noise
        (iCEM's coloured noise, of order one), for keys the probability of pressing the same one again.
        """

    def sample_coloured(self, draws: Draws, n: int, exponent: float) -> Tensor:
        """n plans (B, n, L, ...) for each world, made of noise whose power falls with frequency as f^-exponent.

        How likely each decision is stays the same, as does its meaning: see `colour.coloured`.
        """

    def mode(self) -> Tensor:
        """The most likely plan (B, L, ...)."""

    def around(self, plan: Tensor, width: float) -> Belief:
        """A belief that plan (B, L, ...) is nearly right: of standard deviation ``width``, or that each of its keys is
        another one with that probability."""

    def fit(self, plans: Tensor, weights: Tensor, smoothing: float) -> Belief:
        """The belief that matches plans (B, N, L, ...) of weights (B, N) that sum to 1.

        ``smoothing`` in [0, 1) is how much of the present belief stays.
        """


@dataclass(frozen=True)
class WarmStart:
    """What is left of a previous search.

    Attributes:
        plans: (B, P, L, ...), best first.
        usable: (B,) bool, which worlds have a previous plan at all.
    """

    plans: Tensor
    usable: Tensor


def initial_belief(
    spec: ActionSpec, batch: int, decisions: int, warm: WarmStart | None, device: torch.device
) -> Belief:
    """What to believe before anything is imagined: nothing, or that a previous plan was good."""
    usable = None if warm is None else warm.usable[:, None, None]
    if spec.kind == "discrete":
        even = torch.full((batch, decisions, spec.n), 1 / spec.n, device=device)
        if warm is None or usable is None:
            return KeyBelief(even)
        favoured = (even + torch.nn.functional.one_hot(warm.plans[:, 0], spec.n)) / 2
        return KeyBelief(torch.where(usable, favoured, even))
    mean = torch.zeros(batch, decisions, spec.n, device=device)
    if warm is not None and usable is not None:
        mean = torch.where(usable, warm.plans[:, 0], mean)
    return BoxBelief(mean, torch.full_like(mean, BoxBelief.WIDE))


@dataclass(frozen=True)
class BoxBelief:
    """Independent normal distributions of the coordinates of every decision, cut off at the bounds -1 and 1.

    Attributes:
        mean: (B, L, n).
        std: (B, L, n).
    """

    mean: Tensor
    std: Tensor

    WIDE = 0.6
    """Standard deviation where nothing is known: about that of uniform numbers in [-1, 1]."""
    NARROW = 0.05
    """Least standard deviation, so that later iterations still find something new."""

    def sample(self, draws: Draws, n: int, persistence: float) -> Tensor:
        noise = draws.normal(n, *self.mean.shape[1:])
        for step in range(1, noise.shape[2]):
            noise[:, :, step] = persistence * noise[:, :, step - 1] + (1 - persistence**2) ** 0.5 * noise[:, :, step]
        return (self.mean.unsqueeze(1) + self.std.unsqueeze(1) * noise).clamp(-1, 1)

    def sample_coloured(self, draws: Draws, n: int, exponent: float) -> Tensor:
        noise = coloured(draws.normal(n, *self.mean.shape[1:]), exponent)
        return (self.mean.unsqueeze(1) + self.std.unsqueeze(1) * noise).clamp(-1, 1)

    def mode(self) -> Tensor:
        return self.mean

    def around(self, plan: Tensor, width: float) -> BoxBelief:
        return BoxBelief(plan, torch.full_like(plan, width))

    def fit(self, plans: Tensor, weights: Tensor, smoothing: float) -> BoxBelief:
        w = weights.to(plans.dtype)[:, :, None, None]
        mean = (w * plans).sum(1)
        std = (w * (plans - mean.unsqueeze(1)).square()).sum(1).sqrt()
        return BoxBelief(
            smoothing * self.mean + (1 - smoothing) * mean,
            (smoothing * self.std + (1 - smoothing) * std).clamp(min=self.NARROW),
        )


@dataclass(frozen=True)
class KeyBelief:
    """Independent probabilities of the keys at every decision.

    Attributes:
        probabilities: (B, L, K), summing to 1 over the keys.
    """

    probabilities: Tensor

    FLOOR = 0.05
    """Probability that is always spread evenly over the keys, so that none is ruled out for good."""

    def sample(self, draws: Draws, n: int, persistence: float) -> Tensor:
        gumbel = -(-draws.uniform(n, *self.probabilities.shape[1:]).log()).log()
        keys = (self.probabilities.log().unsqueeze(1) + gumbel).argmax(-1)
        again = draws.uniform(n, keys.shape[2]) < persistence
        for step in range(1, keys.shape[2]):
            keys[:, :, step] = torch.where(again[:, :, step], keys[:, :, step - 1], keys[:, :, step])
        return keys

    def sample_coloured(self, draws: Draws, n: int, exponent: float) -> Tensor:
        uniform = torch.special.ndtr(coloured(draws.normal(n, *self.probabilities.shape[1:]), exponent))
        gumbel = -(-uniform.clamp(1e-7, 1 - 1e-7).log()).log()
        keys: Tensor = (self.probabilities.log().unsqueeze(1) + gumbel).argmax(-1)
        return keys

    def mode(self) -> Tensor:
        return self.probabilities.argmax(-1)

    def around(self, plan: Tensor, width: float) -> KeyBelief:
        n = self.probabilities.shape[-1]
        chosen = torch.nn.functional.one_hot(plan, n).to(self.probabilities)
        return KeyBelief((1 - width) * chosen + width / n)

    def fit(self, plans: Tensor, weights: Tensor, smoothing: float) -> KeyBelief:
        n = self.probabilities.shape[-1]
        pressed = torch.nn.functional.one_hot(plans, n).to(weights.dtype)
        counted = (weights[:, :, None, None] * pressed).sum(1).to(self.probabilities.dtype)
        kept = smoothing * self.probabilities + (1 - smoothing) * counted
        return KeyBelief((1 - self.FLOOR) * kept + self.FLOOR / n)
