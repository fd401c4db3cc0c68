"""Validation during training: how well the world imagines maps it has never trained on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...rollouts.cache import TrainingCache
from ..world_model import WorldModel

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
    """

    reconstruction: float
    next_frame: float
    copy: float
    rollout: tuple[float, ...]
    rollout_copy: tuple[float, ...]
    grid: Tensor

    def scalars(self) -> dict[str, float]:
        """The scores by name."""
        return {
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
