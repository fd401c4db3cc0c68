"""Last stage: how wrong imagined frames turn out to be, learned from what the finished world imagines of its data."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ...errors import ConfigError
from ...rollouts.cache import TrainingCache
from ..evidence import evidence
from ..world_model import WorldModel
from .chance import Chance
from .config import StageConfig

WALKS = 16
"""Worlds imagined at once."""
HORIZON = 40
"""Frames imagined in each of them; fewer where episodes are short."""
EVERY = 48
"""Steps of training that make do with the same roll-outs before the next is imagined."""
KEPT = 12
"""Newest roll-outs that samples are drawn from."""
_LEAST_VARIANCE = 1e-3


@dataclass(frozen=True)
class Samples:
    """N imagined frames and how wrong they were.

    Attributes:
        clues: (N, F) what they rest on.
        error: (N,) their squared error in units of the episode's variance.
    """

    clues: Tensor
    error: Tensor

    def __getitem__(self, rows: Tensor) -> Samples:
        return Samples(*(getattr(self, f.name)[rows] for f in fields(self)))

    @classmethod
    def cat(cls, parts: list[Samples]) -> Samples:
        """All of several."""
        return cls(*(torch.cat([getattr(part, f.name) for part in parts]) for f in fields(cls)))


class ErrorStage:
    """The error head learns to foretell the error of roll-outs: recorded contexts, recorded actions, imagined poses.

    Everything else of the world stays as it is, so a roll-out is a function of its number alone: after an interruption
    the newest ones are imagined again.

    Args:
        world: the finished model, with an error head.
        cache: recorded experience of the train split.
        latents: (N, C, h, w) float16 latents of the cache's frames.
        config: batch size.
        seed: of every random choice.

    Raises:
        ConfigError: a world without an error head, or episodes too short to imagine anything after a context.
    """

    name = "error"

    def __init__(
        self, world: WorldModel, cache: TrainingCache, latents: NDArray[np.float16], config: StageConfig, seed: int
    ) -> None:
        if world.error_head is None:
            raise ConfigError("This world has no error head to train.")
        self._world, self._cache, self._latents, self._config, self._seed = world, cache, latents, config, seed
        longest, self._least = int(cache.episode_lengths.max()), world.config.context
        self._horizon = min(HORIZON, (longest - self._least) // 2)
        if self._horizon < 1:
            raise ConfigError(f"Episodes of {longest} frames are too short to learn how wrong imagination is.")
        self._most = longest - self._horizon
        self._made: dict[int, Samples] = {}
        self.module: nn.Module = world.error_head.requires_grad_(True)

    def loss(self, step: int) -> dict[str, Tensor]:
        """Loss of one batch of imagined frames: log mu + error / mu, least where mu is the mean of the error."""
        newest = step // EVERY
        rollouts = range(max(0, newest - KEPT + 1), newest + 1)
        self._made = {n: self._made[n] if n in self._made else self.imagine(n) for n in rollouts}
        samples = Samples.cat(list(self._made.values()))
        b, device = self._config.batch_size, self._world.device
        chance = Chance.of(self._seed, step, b, device)
        drawn = samples[(chance.even(1, 1)[:, 0] * len(samples.error)).long()]
        expected: Tensor = self.module(drawn.clues).float()
        return {"error": (expected + drawn.error * (-expected).exp()).mean()}

    @torch.no_grad()
    def imagine(self, number: int) -> Samples:
        """The samples of roll-out ``number``: `WALKS` walks after contexts of one length, drawn for each roll-out."""
        world, cache, h, device = self._world, self._cache, self._horizon, self._world.device
        share = float(Chance.of(self._seed, number, 1, torch.device("cpu")).even(2, 1))
        # Evenly in the logarithm: short contexts, where little is known, are as many as long ones.
        k = round(self._least * (self._most / self._least) ** share)
        rows = cache.window_indices(number, WALKS, k + h, self._seed + 1)[:, None] + np.arange(k + h)
        seeds = torch.arange(WALKS) + number * WALKS
        frames, actions = torch.from_numpy(cache.frames[rows[:, :k]]), torch.from_numpy(cache.actions[rows])
        parts = []
        # What the head will judge is imagined in whole precision.
        with torch.autocast(device.type, enabled=False):
            state = world.start(WALKS, seeds)
            state = world.observe(state, frames, actions[:, :k], torch.from_numpy(cache.poses[rows[:, :k]]))
            variance = self._variance(rows[:, 0])
            for t in range(k, k + h):
                after, step = world.imagine(state, actions[:, t])
                clues = evidence(state, step, world.actions.step_length, world.actions.step_angle)
                true = torch.from_numpy(self._latents[rows[:, t]]).to(device, torch.float32)
                error = (step.latents - true).square().mean((1, 2, 3)) / variance
                parts.append(Samples(clues, error))
                state = after
        return Samples.cat(parts)

    def _variance(self, rows: NDArray[np.int64]) -> Tensor:
        """(B,) mean variance of the latents within the episodes that ``rows`` (B,) are frames of."""
        cache = self._cache
        bounds = np.append(cache.episode_start, cache.num_frames)
        values = []
        for episode in np.searchsorted(cache.episode_start, rows, side="right") - 1:
            latents = torch.tensor(self._latents[bounds[episode] : bounds[episode + 1]], dtype=torch.float32)
            values.append(latents.var(0, correction=0).mean())
        return torch.stack(values).clamp(min=_LEAST_VARIANCE).to(self._world.device)
