"""Second stage: the heads, over latents that the autoencoder made: where an action leads, and what that is worth."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from ...rollouts.cache import TrainingCache
from ..pose import motion_between
from ..world_model import WorldModel
from .chance import Chance
from .config import StageConfig

LAST_NOISE = 0.3
NEXT_NOISE = 0.2
_AMISS = 0.1
"""A motion this share of a step off what was asked for went amiss."""


class HeadsStage:
    """The pose head learns recorded motions, the outcome head rewards and ends.

    Both see latents with noise, since in imagination they see what the video model drew. Motions seldom go amiss, so
    half of every batch are some that did; weights make the expected loss that of an even draw.

    Args:
        world: the model; its autoencoder and its video model are left alone.
        cache: recorded experience.
        latents: (N, C, h, w) float16 latents of the cache's frames.
        config: batch size.
        seed: of every random choice.
    """

    name = "heads"

    def __init__(
        self, world: WorldModel, cache: TrainingCache, latents: NDArray[np.float16], config: StageConfig, seed: int
    ) -> None:
        self._world, self._cache, self._latents, self._config, self._seed = world, cache, latents, config, seed
        self.module = nn.ModuleDict({"pose_head": world.pose_head, "outcome_head": world.outcome_head})
        aims = np.setdiff1d(np.arange(cache.num_frames), cache.episode_start)
        asked, motion, _ = self._motions(aims)
        amiss = ((motion - asked).abs() > _AMISS * self._steps).any(1).cpu().numpy()
        self._strata = [aims[amiss], aims[~amiss]]

    def loss(self, step: int) -> dict[str, Tensor]:
        """Losses of one batch of recorded transitions."""
        world, cache, b, device = self._world, self._cache, self._config.batch_size, self._world.device
        chance = Chance.of(self._seed, step, b, device)
        aim, weight = self._draw(chance)
        asked, motion, previous = self._motions(aim)
        last, target = self._read(aim - 1), self._read(aim)
        noisy = LAST_NOISE * chance.even(1, 1, 1, 1) * (chance.even(2, 1, 1, 1) < 0.5)
        last = torch.lerp(last, chance.gauss(3, *last.shape[1:]), noisy)
        imagined = torch.lerp(target, chance.gauss(4, *target.shape[1:]), NEXT_NOISE * chance.even(5, 1, 1, 1))

        made = world.predict_motion(last, previous, asked)
        reward, logit = world.outcome_head(last, imagined, world.magnitudes(motion))
        goes_on = torch.from_numpy(~cache.terminated[aim]).to(device, torch.float32)
        off = F.smooth_l1_loss(made.float() / self._steps, motion / self._steps, beta=0.05, reduction="none")
        wrong = {
            "pose": off.mean(1),
            "reward": F.mse_loss(reward.float(), torch.from_numpy(cache.rewards[aim]).to(device), reduction="none"),
            "continue": F.binary_cross_entropy_with_logits(logit.float(), goes_on, reduction="none"),
        }
        return {name: (loss * weight).mean() for name, loss in wrong.items()}

    def _draw(self, chance: Chance) -> tuple[NDArray[np.int64], Tensor]:
        """Frames (B,) that a motion led to, half of them one that went amiss, and their weights (B,)."""
        coarse, fine = chance.even(6, 2).double().cpu().numpy().T
        where = (coarse + fine * 2.0**-23) % 1.0  # as fine as long recordings need
        everything = sum(map(len, self._strata))
        kinds = [rows for rows in self._strata if len(rows)]
        drawn, weights = [], []
        for rows, part in zip(kinds, np.array_split(where, len(kinds)), strict=True):
            drawn.append(rows[(part * len(rows)).astype(np.int64)])
            weights.append(np.full(len(part), len(rows) / everything * len(where) / max(1, len(part))))
        weight = torch.from_numpy(np.concatenate(weights)).to(self._world.device, torch.float32)
        return np.concatenate(drawn), weight

    def _motions(self, aim: NDArray[np.int64]) -> tuple[Tensor, Tensor, Tensor]:
        """(B, 5) motions: asked for, made on the way to frame ``aim``, and the one before it (none at a beginning)."""
        earlier = np.where(np.isin(aim - 1, self._cache.episode_start), aim - 1, aim - 2)
        poses = [self._poses(rows) for rows in (earlier, aim - 1, aim)]
        previous, motion = (motion_between(a, b).to(torch.float32) for a, b in pairwise(poses))
        asked = self._world.actions.nominal_motion(torch.from_numpy(self._cache.actions[aim]).to(self._world.device))
        return asked, motion, previous

    @property
    def _steps(self) -> Tensor:
        spec = self._world.actions
        return torch.tensor([spec.step_length] * 3 + [spec.step_angle] * 2, device=self._world.device)

    def _poses(self, rows: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(self._cache.poses[rows]).to(self._world.device)

    def _read(self, rows: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(self._latents[rows]).to(self._world.device, torch.float32)
