"""Second stage: the heads, over latents that the autoencoder made: where an action leads, and what that is worth."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from ...rollouts.cache import TrainingCache
from ..actions import ActionSpec
from ..noise import uniform
from ..pose import motion_between
from ..prediction.ways import either_way, once_more
from ..world_model import WorldModel
from .chance import Chance
from .config import StageConfig

LAST_NOISE = 0.3
NEXT_NOISE = 0.2


def resample(episodes: NDArray[np.int64], members: int, seed: int) -> Tensor:
    """Weights (B, M) float32 of samples from ``episodes`` (B,) for each of M members; all 1 for a single one.

    The Bayesian bootstrap (Rubin 1981): every member weighs every episode by an exponential number of mean 1, a
    function of seed, episode and member alone. Whole episodes are weighed, for frames of one resemble each other.
    """
    if members == 1:
        return torch.ones(len(episodes), 1)
    seeds = torch.full((len(episodes),), seed, dtype=torch.int64)
    return -uniform(seeds, torch.from_numpy(episodes), (members,), stream=1).log()


def stopped_again(cache: TrainingCache) -> float:
    """Share of recorded steps, asked for again after they had moved nothing, that moved nothing again; see `once_more`.

    k of n is k / (n + 1): a data set that does not show it leaves it at 0.
    """
    spec = cache.action_spec
    start = np.zeros(len(cache.actions), bool)
    start[cache.episode_start] = True
    # Nothing was asked for on the way to a first frame.
    rows = np.flatnonzero(~start[1:] & ~start[:-1]) + 1
    unit = torch.tensor([spec.step_length] * 3 + [spec.step_angle] * 2, dtype=torch.float32)
    (before, stopped), (asked, made) = _motions(cache, spec, rows - 1), _motions(cache, spec, rows)
    tried = once_more(before / unit, stopped / unit, asked / unit)
    still = once_more(before / unit, made / unit, asked / unit)
    return float((tried & still).sum()) / (float(tried.sum()) + 1)


def _motions(cache: TrainingCache, spec: ActionSpec, rows: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    """(B, 5) the motions asked for and made on the way to frames ``rows``."""
    asked = spec.nominal_motion(torch.from_numpy(cache.actions[rows]))
    left, arrived = (torch.from_numpy(cache.poses[at]) for at in (np.maximum(rows - 1, 0), rows))
    return asked, motion_between(left, arrived).to(torch.float32)


class HeadsStage:
    """The pose head learns recorded motions, the outcome head rewards and ends.

    Both see latents with noise, since in imagination they see what the video model drew. Of an ensemble of outcome
    heads each sees a resample of the data of its own.

    Args:
        world: the model; its autoencoder and its video model are left alone.
        cache: recorded experience.
        latents: (N, C, h, w) float16 latents of the cache's frames.
        config: batch size.
        seed: of every random choice.
        motions: train the pose head too.
    """

    def __init__(
        self,
        world: WorldModel,
        cache: TrainingCache,
        latents: NDArray[np.float16],
        config: StageConfig,
        seed: int,
        motions: bool = True,
    ) -> None:
        self._world, self._cache, self._latents, self._config, self._seed = world, cache, latents, config, seed
        members = world.config.outcome_members
        # Another number of members is another checkpoint: a run begun with another one trains its heads again.
        name = "heads" if motions else "outcomes"
        self.name = name if members == 1 else f"{name}-{members}"
        self.module = nn.ModuleDict({"outcome_head": world.outcome_head})
        if motions:
            self.module["pose_head"] = world.pose_head

    def loss(self, step: int) -> dict[str, Tensor]:
        """Losses of one batch of recorded transitions."""
        world, cache, b, device = self._world, self._cache, self._config.batch_size, self._world.device
        chance = Chance.of(self._seed, step, b, device)
        before = cache.window_indices(step, b, 2, self._seed)
        aim = before + 1
        spec = world.actions
        asked, motion, asked_before, motion_before = (
            motion.to(device) for rows in (aim, before) for motion in _motions(cache, spec, rows)
        )
        # Nothing was asked for on the way to a first frame.
        first = torch.from_numpy(np.isin(before, cache.episode_start)).to(device)
        deviation = torch.where(first[:, None], 0.0, motion_before - asked_before)
        steps = motion.new_tensor([spec.step_length] * 3 + [spec.step_angle] * 2)

        last, target = self._read(before), self._read(aim)
        noisy = LAST_NOISE * chance.even(1, 1, 1, 1) * (chance.even(2, 1, 1, 1) < 0.5)
        last = torch.lerp(last, chance.gauss(3, *last.shape[1:]), noisy)
        imagined = torch.lerp(target, chance.gauss(4, *target.shape[1:]), NEXT_NOISE * chance.even(5, 1, 1, 1))

        rewards, logits = world.outcome_head(last, imagined, world.magnitudes(motion))
        members = rewards.shape[1]
        weights = resample(np.searchsorted(cache.episode_start, aim, side="right") - 1, members, self._seed).to(device)
        paid = torch.from_numpy(cache.rewards[aim]).to(device)[:, None].expand(-1, members)
        goes_on = torch.from_numpy(~cache.terminated[aim]).to(device, torch.float32)[:, None].expand(-1, members)
        losses = {
            "reward": (weights * (rewards.float() - paid).square()).mean(),
            "continue": F.binary_cross_entropy_with_logits(logits.float(), goes_on, weight=weights),
        }
        if "pose_head" in self.module:
            if world.config.ways == 1:
                made = world.predict_motion(last, deviation, asked)
                losses["pose"] = F.smooth_l1_loss(made.float() / steps, motion / steps, beta=0.05)
            else:
                ways, chances = world.motion_ways(last, deviation, asked)
                losses["pose"] = either_way(ways.float(), chances.float(), (motion - asked) / steps).mean()
        return losses

    def _read(self, rows: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(self._latents[rows]).to(self._world.device, torch.float32)
