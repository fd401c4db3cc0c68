"""Validation during training: how well the world imagines maps it has never trained on."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...rollouts.cache import TrainingCache
from ..actions import key_class
from ..memory.retrieval import Query, Remembered, retrieve
from ..noise import normal
from ..pose import motion_between
from ..prediction.context import Context
from ..prediction.flow import integrate
from ..world_model import WorldModel
from .histories import draw_histories

CHANGED = 2.0


@dataclass(frozen=True)
class Validation:
    """Scores of one validation, PSNR in dB, averaged over frames.

    Attributes:
        reconstruction: of the autoencoder, on the true next frame.
        next_frame: of the imagined next frame, over frames that changed.
        copy: of copying the last frame instead, over the same frames.
        rollout: (H,) of roll-outs with true actions, by horizon.
        rollout_copy: (H,) of the last real frame held still.
        grid: (3 R, S, 3) uint8 picture: rows of true, imagined and error frames of a few roll-outs.
        recollection: what memory is worth, see `Recollection`; empty for a world without one.
    """

    reconstruction: float
    next_frame: float
    copy: float
    rollout: tuple[float, ...]
    rollout_copy: tuple[float, ...]
    grid: Tensor
    recollection: dict[str, float] = field(default_factory=dict)

    def scalars(self) -> dict[str, float]:
        """The scores by name."""
        return self.recollection | {
            "reconstruction": self.reconstruction,
            "next_frame": self.next_frame,
            "next_frame_gain": self.next_frame - self.copy,
            "rollout_last": self.rollout[-1],
            "rollout_last_gain": self.rollout[-1] - self.rollout_copy[-1],
        }


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """PSNR (...) in dB of uint8 frames (..., H, W, 3); identical frames count as 60 dB."""
    error = (a.to(torch.float32) - b.to(torch.float32)).square().mean((-1, -2, -3))
    return 10 * torch.log10(255.0**2 / error.clamp(min=255.0**2 * 1e-6))


@torch.no_grad()
def validate(
    world: WorldModel, cache: TrainingCache, horizon: int = 10, windows: int = 128, seed: int = 0
) -> Validation:
    """Score roll-outs of ``horizon`` steps from ``windows`` fixed places of a validation cache."""
    k = world.config.context
    batch = cache.read_windows(cache.window_indices(0, windows, k + horizon, seed), k + horizon)
    frames = torch.from_numpy(batch.frames).to(world.device)
    actions = torch.from_numpy(batch.actions).to(world.device)
    poses = torch.from_numpy(batch.poses).to(world.device)
    state = world.observe(world.start(windows), frames[:, :k], actions[:, :k], poses[:, :k])
    imagined = []
    for i in range(k, k + horizon):
        state, step = world.imagine(state, actions[:, i])
        imagined.append(world.render(step.latents))
    pictures, truth, held = torch.stack(imagined, 1), frames[:, k:], frames[:, k - 1 : k]
    scores, copies = psnr(pictures, truth), psnr(held.expand_as(truth), truth)
    changed = (truth[:, 0].float() - held[:, 0].float()).abs().mean((1, 2, 3)) > CHANGED
    rebuilt = world.render(world.encode(truth[:, 0]))
    shown = [pictures[:6], truth[:6]]
    error = (shown[0].to(torch.int16) - shown[1].to(torch.int16)).abs().clamp(max=127) * 2
    rows = torch.stack([shown[1], shown[0], error.to(torch.uint8)], 1)
    return Validation(
        reconstruction=float(psnr(rebuilt, truth[:, 0]).mean()),
        next_frame=float(scores[changed, 0].mean()),
        copy=float(copies[changed, 0].mean()),
        rollout=tuple(scores.mean(0).tolist()),
        rollout_copy=tuple(copies.mean(0).tolist()),
        grid=rows.permute(0, 1, 3, 2, 4, 5).flatten(3, 4).flatten(0, 2).cpu(),
    )


def _velocity(
    world: WorldModel, keys: Tensor, magnitudes: Tensor, context: Context, noisy: Tensor, time: Tensor
) -> Tensor:
    velocity: Tensor = world.cdit(noisy, time, keys, magnitudes, context)
    return velocity


class Recollection:
    """Prediction from memory alone, on held-out maps: frames whose recent past is hidden.

    Args:
        world: with a memory.
        cache: of the validation split.
        latents: (N, C, h, w) its frames, encoded.
        samples: frames to predict.
        seed: of their choice.
    """

    def __init__(
        self, world: WorldModel, cache: TrainingCache, latents: NDArray[np.float16], samples: int = 256, seed: int = 0
    ) -> None:
        self._world, self._cache, self._samples, self._seed = world, cache, samples, seed
        self._latents = latents

    @torch.no_grad()
    def score(self) -> dict[str, float]:
        """PSNR in dB of frames predicted from memory alone, and the same with the memory taken away."""
        world, cache, n = self._world, self._cache, self._samples
        config, k, device = world.config, world.config.context, world.device
        none = np.zeros(n, bool)
        walks = draw_histories(cache, k, 0, n, self._seed, none, np.zeros(n))
        aim, before = walks.at(0), walks.at(1)
        arrived = torch.from_numpy(cache.poses[aim]).to(device)
        motion = motion_between(torch.from_numpy(cache.poses[before]).to(device), arrived).to(torch.float32)
        asked = world.actions.nominal_motion(torch.from_numpy(cache.actions[aim]).to(device))
        now, seeds = torch.from_numpy(walks.target).to(device), torch.arange(n, device=device)
        poses = torch.from_numpy(cache.poses[walks.rows]).to(device)
        times = torch.arange(poses.shape[1], device=device).expand(n, -1)
        past = Remembered(poses, times, torch.ones_like(times, dtype=torch.bool))
        query = Query(arrived, now, seeds, skip=k)
        found = retrieve(config.strategy, query, past, len(config.cdit.retrieved))
        rows = np.take_along_axis(walks.rows, found.columns.cpu().numpy(), 1)
        old = torch.from_numpy(self._latents[rows]).to(device, torch.float32)
        hidden = normal(seeds, now, (k, *config.latent_shape), stream=1)
        recent = torch.stack([torch.from_numpy(cache.poses[walks.at(back)]) for back in range(k, 0, -1)], 1).to(device)
        places = poses.gather(1, found.columns.unsqueeze(-1).expand(-1, -1, 5))
        age = found.columns - now.unsqueeze(1)
        time = torch.cat([torch.arange(-k, 0, device=device).expand(n, k), world.cdit.offsets(age, found.valid)], 1)
        level = torch.cat([old.new_ones(n, k), old.new_zeros(n, old.shape[1])], 1)
        truth = torch.from_numpy(cache.frames[aim]).to(device)
        scores = {}
        for name, there in (("from_memory", found.valid), ("from_nothing", torch.zeros_like(found.valid))):
            context = world.cdit.context(
                torch.cat([hidden, old], 1), level, time, torch.cat([recent, places], 1),
                torch.cat([torch.ones_like(there[:, :1]).expand(-1, k), there], 1), arrived,
            )  # fmt: skip
            velocity = partial(_velocity, world, key_class(asked), world.magnitudes(motion), context)
            noise = normal(seeds, now, config.latent_shape)
            latents, _ = integrate(velocity, noise, config.denoising_steps, config.sampler)
            scores[name] = float(psnr(world.render(latents), truth).mean())
        return scores
