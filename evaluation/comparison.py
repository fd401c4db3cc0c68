"""What a comparison is made of: its configuration, its roll-outs, and the scores they give."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import ConfigError
from ..world_models.pose import pose_distance
from ..world_models.world import World
from .clips import Clips
from .media import Frames
from .metrics import Curve, FloatArray, Interval, bootstrap, bootstrap_curve, changed, psnr, ssim
from .report import jsonable, provenance


@dataclass(frozen=True)
class CompareConfig:
    """What `compare` measures."""

    maps: int = 50
    """Held-out maps; intervals are over maps."""
    clips_per_map: int = 1
    """Clips on each map, from different starts."""
    context: int = 16
    """Real frames observed before imagination starts."""
    horizon: int = 20
    """Frames imagined after them."""
    split: Literal["validation", "test"] = "validation"
    """Which held-out maps. Test maps are for reports only."""
    poses: Literal["predicted", "true"] = "predicted"
    """Imagine along the world's own poses, or along the true ones."""
    pictures: int = 4
    """Clips drawn as video, GIF and strip: the first ones, not chosen."""
    batch: int = 64
    """Worlds imagined at once."""
    seed: int = 0
    """Of maps, starts, walkers, imagination and resampling."""

    def __post_init__(self) -> None:
        for name in ("maps", "clips_per_map", "context", "horizon", "batch"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if self.split not in ("validation", "test"):
            raise ConfigError(f"Worlds are compared on 'validation' or 'test' maps, not on {self.split!r}.")


@dataclass(frozen=True)
class Imagined:
    """Roll-outs of N clips beside what was real.

    Attributes:
        frames: (N, H, height, width, 3) uint8, imagined from the context and the true actions.
        next_frames: the same, each imagined from all real frames before it.
        poses: (N, H, 5) float64, imagined.
    """

    frames: NDArray[np.uint8]
    next_frames: NDArray[np.uint8]
    poses: NDArray[np.float64]


@dataclass(frozen=True)
class Scores:
    """Similarity to the true frame against the horizon, of the imagined frame and of two baselines.

    Attributes:
        imagined: the world's own frame.
        copying: the last real frame, repeated.
        mean_frame: the mean frame.
    """

    imagined: Curve
    copying: Curve
    mean_frame: Curve


@dataclass(frozen=True)
class Gain:
    """Imagined against copied frames, in dB PSNR.

    Attributes:
        imagined: mean over the frames.
        copying: the same of the last real frame.
        gain: their difference, paired frame by frame.
    """

    imagined: Interval
    copying: Interval
    gain: Interval

    def __str__(self) -> str:
        ours, copying = self.imagined.estimate, self.copying.estimate
        return f"{ours:.2f} dB against {copying:.2f} dB copying, gain {self.gain}"


@dataclass(frozen=True)
class CompareReport:
    """What `compare` found; every interval is 95 %, bootstrapped over maps.

    Attributes:
        config: what was asked.
        mean_frame_of: which frames the mean frame is the mean of.
        psnr: dB against the horizon, all frames.
        ssim: the same in structural similarity.
        psnr_changed: dB against the horizon, only frames that differ from the last real one.
        next_frame: one step ahead from real frames, every step of every clip where the frame changed.
        rollout: over all steps of the roll-outs, all frames.
        rollout_end: at the last step of the roll-outs, all frames.
        distance: world units between imagined and true camera against the horizon.
        heading: degrees between imagined and true viewing direction against the horizon.
        files: pictures written, relative to the report.
        provenance: versions and time.
    """

    config: CompareConfig
    mean_frame_of: str
    psnr: Scores
    ssim: Scores
    psnr_changed: Scores
    next_frame: Gain
    rollout: Gain
    rollout_end: Gain
    distance: Curve
    heading: Curve
    files: tuple[str, ...] = ()
    provenance: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The report as plain data; numbers that do not exist are null."""
        data: dict[str, Any] = jsonable(asdict(self))
        return data


def score(world: World, clips: Clips, imagined: Imagined, config: CompareConfig) -> CompareReport:
    """Every number of the report, from the roll-outs alone."""
    k, maps = config.context, clips.maps
    true, before = clips.frames[:, k:], clips.frames[:, k - 1 : -1]
    copied = np.broadcast_to(clips.frames[:, k - 1 : k], true.shape)
    mean_frame, mean_frame_of = _mean_frame(world, clips, k)
    candidates = (imagined.frames, copied, np.broadcast_to(mean_frame, true.shape))
    decibels = [psnr(c, true) for c in candidates]
    likeness = [ssim(c, true) for c in candidates]
    moved = np.where(changed(copied, true), 0.0, np.nan)
    distance, angle = pose_distance(torch.as_tensor(imagined.poses), torch.as_tensor(clips.poses[:, k:]))

    def curve(values: FloatArray) -> Curve:
        return bootstrap_curve(values, maps, seed=config.seed)

    def gain(ours: FloatArray, copying: FloatArray) -> Gain:
        labels = np.repeat(maps, ours.shape[1])
        return Gain(*(bootstrap(v, labels, seed=config.seed) for v in (ours, copying, ours - copying)))

    step_moved = np.where(changed(before, true), 0.0, np.nan)
    return CompareReport(
        config=config,
        mean_frame_of=mean_frame_of,
        psnr=Scores(*(curve(d) for d in decibels)),
        ssim=Scores(*(curve(s) for s in likeness)),
        psnr_changed=Scores(*(curve(d + moved) for d in decibels)),
        next_frame=gain(psnr(imagined.next_frames, true) + step_moved, psnr(before, true) + step_moved),
        rollout=gain(decibels[0], decibels[1]),
        rollout_end=gain(decibels[0][:, -1:], decibels[1][:, -1:]),
        distance=curve(distance.numpy()),
        heading=curve(np.degrees(angle.numpy())),
        provenance=provenance(world),
    )


def _mean_frame(world: World, clips: Clips, context: int) -> tuple[Frames, str]:
    stored = getattr(world, "mean_frame", None)
    if stored is not None:
        return np.asarray(torch.as_tensor(stored).cpu(), np.uint8), "the world's training data"
    mean = clips.frames[:, :context].mean((0, 1), dtype=np.float64)
    return np.round(mean).astype(np.uint8), "the real context frames of this comparison"
