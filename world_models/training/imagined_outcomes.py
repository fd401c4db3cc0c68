"""After the video model: what frames pay that it has drawn itself, for they are what the outcome head judges in use."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import ConfigError
from ...rollouts.cache import TrainingCache
from ..prediction.flow import Sampler
from ..world_model import WorldModel
from .chance import Chance
from .config import StageConfig
from .heads import HeadsStage, resample

WALKS = 32
"""Worlds imagined at once."""
HORIZON = 5
"""Frames imagined in each of them, along recorded actions and poses."""
EVERY = 6
"""Steps of training that make do with the same roll-outs before the next is imagined."""
KEPT = 24
"""Newest roll-outs that samples are drawn from."""
LIKE = 0.5
"""Squared error, in shares of the latents' variance, up to which a drawn frame is the one that was recorded."""
_WAYS: tuple[tuple[Sampler, int] | None, ...] = (None, ("multistep", 6))
"""How roll-outs are drawn, in turns: the world's own way, and the one that shows most of what is possible."""


@dataclass(frozen=True)
class Pairs:
    """N transitions whose frames were imagined, and what was really paid for them.

    Attributes:
        last, latents: (N, C, h, w) before and after.
        magnitudes: (N, 13) of the motion.
        paid: (N,) reward.
        goes_on: (N,) 1 where the episode went on.
        weight: (N,) what each counts; 0 where one of the frames is not the one that was recorded.
        episode: (N,) int64.
    """

    last: Tensor
    latents: Tensor
    magnitudes: Tensor
    paid: Tensor
    goes_on: Tensor
    weight: Tensor
    episode: Tensor

    def __getitem__(self, rows: Tensor) -> Pairs:
        return Pairs(*(getattr(self, f.name)[rows] for f in fields(self)))

    @classmethod
    def cat(cls, parts: list[Pairs]) -> Pairs:
        """All of several."""
        return cls(*(torch.cat([getattr(part, f.name) for part in parts]) for f in fields(cls)))


class ImaginedOutcomesStage:
    """The outcome head goes on learning: recorded transitions as before, and, as many, imagined ones.

    Walks begin with recorded frames and follow recorded actions and poses. Where the video model draws something else
    than what was recorded, what was paid says nothing about the picture, and it does not count. Half the walks are
    drawn among those that ran into the end of an episode, and count so much less.

    Everything else of the world stays as it is, so a roll-out is a function of its number alone: after an interruption
    the newest ones are imagined again.

    Args:
        world: the finished model.
        cache: recorded experience of the train split.
        latents: (N, C, h, w) float16 latents of the cache's frames.
        config: batch size.
        seed: of every random choice.

    Raises:
        ConfigError: episodes too short to imagine anything after a context.
    """

    name = "imagined-outcomes"

    def __init__(
        self, world: WorldModel, cache: TrainingCache, latents: NDArray[np.float16], config: StageConfig, seed: int
    ) -> None:
        self._world, self._cache, self._latents, self._config, self._seed = world, cache, latents, config, seed
        self._recorded = HeadsStage(world, cache, latents, config, seed, motions=False)
        self._context = world.config.context
        length, lengths = self._context + HORIZON, cache.episode_lengths
        self._windows = int((lengths - length + 1).clip(min=0).sum())
        if not self._windows:
            raise ConfigError(f"No episode has the {length} frames that a context and a roll-out after it need.")
        last = cache.episode_start + lengths - 1
        self._to_ends = last[cache.terminated[last] & (lengths >= length)] - length + 1
        self._variance = float(np.asarray(latents[:: max(1, len(latents) // 4096)], np.float32).var(0).mean())
        self._made: dict[int, Pairs] = {}
        self.module: nn.Module = self._recorded.module.requires_grad_(True)

    def loss(self, step: int) -> dict[str, Tensor]:
        """Losses of a batch of recorded transitions, and of one of imagined ones."""
        newest = step // EVERY
        rollouts = range(max(0, newest - KEPT + 1), newest + 1)
        self._made = {n: self._made[n] if n in self._made else self.imagine(n) for n in rollouts}
        pairs = Pairs.cat(list(self._made.values()))
        world, b = self._world, self._config.batch_size
        chance = Chance.of(self._seed + 1, step, b, world.device)
        drawn = pairs[(chance.even(1, 1)[:, 0] * len(pairs.paid)).long()]
        rewards, logits = world.outcome_head(drawn.last, drawn.latents, drawn.magnitudes)
        members = rewards.shape[1]
        weight = drawn.weight[:, None] * resample(drawn.episode.cpu().numpy(), members, self._seed).to(world.device)
        wrong = (rewards.float() - drawn.paid[:, None]).square()
        goes_on = drawn.goes_on[:, None].expand(-1, members)
        ends = F.binary_cross_entropy_with_logits(logits.float(), goes_on, reduction="none")
        recorded = self._recorded.loss(step)
        return recorded | {
            "imagined_reward": (weight * wrong).mean(), "imagined_continue": (weight * ends).mean()
        }  # fmt: skip

    @torch.no_grad()
    def imagine(self, number: int) -> Pairs:
        """The transitions of roll-out ``number``: `WALKS` walks of `HORIZON` steps."""
        world, cache, k, device = self._world, self._cache, self._context, self._world.device
        first, weight = self._starts(number)
        rows = first[:, None] + np.arange(k + HORIZON)
        episode = torch.from_numpy(np.searchsorted(cache.episode_start, first, side="right") - 1)
        seeds = torch.arange(WALKS) + number * WALKS
        actions, poses = torch.from_numpy(cache.actions[rows]), torch.from_numpy(cache.poses[rows])
        own, way = world.config, _WAYS[number % len(_WAYS)]
        if way is not None:
            world.use(own.with_overrides(sampler=way[0], denoising_steps=way[1]))
        parts = []
        try:
            # What the head will judge is imagined in whole precision.
            with torch.autocast(device.type, enabled=False):
                state = world.observe(
                    world.start(WALKS, seeds), torch.from_numpy(cache.frames[rows[:, :k]]), actions[:, :k], poses[:, :k]
                )
                faithful = torch.ones(WALKS, dtype=torch.bool, device=device)
                for t in range(k, k + HORIZON):
                    after, step = world.imagine(state, actions[:, t], poses[:, t])
                    true = torch.from_numpy(self._latents[rows[:, t]]).to(device, torch.float32)
                    before, faithful = faithful, (step.latents - true).square().mean((1, 2, 3)) < LIKE * self._variance
                    parts.append(Pairs(
                        state.latents[:, -1], step.latents, world.magnitudes(after.motions[:, -1]),
                        torch.from_numpy(cache.rewards[rows[:, t]]).to(device),
                        torch.from_numpy(~cache.terminated[rows[:, t]]).to(device, torch.float32),
                        weight.to(device) * (before & faithful), episode.to(device),
                    ))  # fmt: skip
                    state = after
        finally:
            world.use(own)
        return Pairs.cat(parts)

    def _starts(self, number: int) -> tuple[NDArray[np.int64], Tensor]:
        """(B,) first frames of walks, and how much each counts: as if all had been drawn evenly."""
        anywhere = self._cache.window_indices(number, WALKS, self._context + HORIZON, self._seed + 2)
        ends = self._to_ends
        if not len(ends):
            return anywhere, torch.ones(WALKS)
        draws = Chance.of(self._seed + 2, number, WALKS, torch.device("cpu")).even(1, 1)[:, 0].numpy()
        first = np.where(np.arange(WALKS) % 2, ends[(draws * len(ends)).astype(np.int64)], anywhere)
        # Density of even draws over that of these.
        at_end = np.isin(first, ends)
        weight = np.where(at_end, 2 * len(ends) / (len(ends) + self._windows), 2.0)
        return first, torch.from_numpy(weight.astype(np.float32))
