"""Second stage: the video model and its heads, over latents that the autoencoder made."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from ...rollouts.cache import TrainingCache
from ..actions import key_class
from ..noise import normal, uniform
from ..pose import motion_between
from ..prediction.flow import interpolate, velocity
from ..world_model import WorldModel
from .config import StageConfig

CONTEXT_NOISE = 0.3
SHORT_CONTEXT = 0.15


class DynamicsStage:
    """Next-frame flow matching with noisy context (Diffusion Forcing levels), and the pose, reward and continue heads.

    Args:
        world: the model; its autoencoder is left alone.
        cache: recorded experience.
        latents: (N, C, h, w) float16 latents of the cache's frames.
        config: batch size.
        seed: of every random choice.
    """

    name = "dynamics"

    def __init__(
        self, world: WorldModel, cache: TrainingCache, latents: NDArray[np.float16], config: StageConfig, seed: int
    ) -> None:
        self._world, self._cache, self._latents, self._config, self._seed = world, cache, latents, config, seed
        self.module = nn.ModuleDict(
            {"cdit": world.cdit, "pose_head": world.pose_head, "outcome_head": world.outcome_head}
        )

    def loss(self, step: int) -> dict[str, Tensor]:
        """Losses of one batch of windows of K context frames and the frame after them."""
        world, cache, b = self._world, self._cache, self._config.batch_size
        k, spec, device = world.config.context, world.actions, world.device
        starts = cache.window_indices(step, b, k + 1, self._seed)
        rows = starts[:, None] + np.arange(k + 1)
        window = torch.from_numpy(self._latents[rows]).to(device, torch.float32)
        poses = torch.from_numpy(cache.poses[rows]).to(device)
        actions = torch.from_numpy(cache.actions[rows[:, -1]]).to(device)
        reward = torch.from_numpy(cache.rewards[rows[:, -1]]).to(device)
        ended = torch.from_numpy(cache.terminated[rows[:, -1]]).to(device)

        seeds = torch.full((b,), self._seed, dtype=torch.int64, device=device)
        counter = step * b + torch.arange(b, device=device)

        def chance(stream: int, *shape: int) -> Tensor:
            return uniform(seeds, counter, shape, stream)

        def gauss(stream: int, *shape: int) -> Tensor:
            return normal(seeds, counter, shape, stream)

        clean, target = window[:, :k], window[:, k]
        level = CONTEXT_NOISE * chance(1, k) * (chance(2, 1) < 0.5)
        context = torch.lerp(clean, gauss(3, *clean.shape[1:]), level[..., None, None, None])
        seen = torch.where(
            chance(4, 1) < SHORT_CONTEXT, (chance(5, 1) * k).long() + 1, torch.full_like(seeds, k)[:, None]
        )
        valid = torch.arange(k, device=device) >= k - seen

        asked = spec.nominal_motion(actions)
        keys = key_class(asked)
        motion = motion_between(poses[:, k - 1], poses[:, k]).to(torch.float32)
        magnitudes = world.magnitudes(motion)

        moment = 1 - chance(6, 1).squeeze(1).sqrt()
        noise = gauss(7, *target.shape[1:])
        time = torch.arange(-k, 0, device=device).expand(b, k)
        prepared = world.cdit.context(context, level, time, poses[:, :k, 3], valid)
        flow = world.cdit(interpolate(target, noise, moment), moment, keys, magnitudes, poses[:, k, 3], prepared)

        last = context[:, -1]
        steps = motion.new_tensor([spec.step_length] * 3 + [spec.step_angle] * 2)
        correction = world.pose_head(last, keys, world.magnitudes(asked))
        smear = 0.2 * chance(8, 1, 1, 1)
        predicted_reward, logit = world.outcome_head(
            last, torch.lerp(target, gauss(9, *target.shape[1:]), smear), magnitudes
        )
        return {
            "flow": (flow.float() - velocity(target, noise)).square().mean(),
            "pose": F.smooth_l1_loss(correction.float(), (motion - asked) / steps, beta=0.05),
            "reward": (predicted_reward.float() - reward).square().mean(),
            "continue": F.binary_cross_entropy_with_logits(logit.float(), (~ended).to(torch.float32)),
        }
