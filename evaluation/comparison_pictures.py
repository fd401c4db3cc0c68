"""A comparison as pictures: curves against the horizon, and clips of true, imagined and error."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from ..world_models.world import World
from .clips import Clips
from .comparison import CompareReport, Imagined, Scores
from .figures import Panel, horizon_figure, write_figure
from .media import error_picture, panes, strip, write_gif, write_png, write_video
from .metrics import Curve, psnr


def draw(world: World, clips: Clips, imagined: Imagined, report: CompareReport, out: Path) -> tuple[str, ...]:
    """Write ``horizon.png`` and, of the first clips, ``clip-i.mp4/.gif`` and ``strip-i.png``; their names."""
    config, k = report.config, report.config.context
    figure = horizon_figure(
        [
            Panel("Likeness to the true frame", "PSNR (dB)", _named(report.psnr)),
            Panel("Structural similarity", "SSIM", _named(report.ssim)),
            Panel("Imagined camera", "distance to the true one (map units)", {"imagined": report.distance}),
        ],
        caption=(
            f"{config.maps} {config.split} maps, {config.context} real frames seen first; "
            "bands: 95 % over maps"
        ),
    )
    files = [write_figure(out / "horizon.png", figure)]
    for i in range(min(config.pictures, len(clips.maps))):
        true, ours, last = clips.frames[i, k:], imagined.frames[i], clips.frames[i, k - 1]
        score, copied = psnr(ours, true), psnr(np.broadcast_to(last, true.shape), true)
        names = [_action_name(world, a) for a in clips.actions[i, k:]]
        captions = [
            f"map {clips.maps[i]}   step {t + 1}: {names[t]}   "
            f"PSNR {score[t]:.1f} dB, copying {copied[t]:.1f} dB"
            for t in range(len(true))
        ]
        clip = {"true": true, "imagined": ours, "error": error_picture(ours, true)}
        video = panes(clip, captions)
        files.append(write_video(out / f"clip-{i}.mp4", video))
        files.append(write_gif(out / f"clip-{i}.gif", video))
        shown = np.unique(np.linspace(0, len(true) - 1, min(10, len(true))).round().astype(int))
        picture = strip({name: c[shown] for name, c in clip.items()}, [int(t) + 1 for t in shown])
        files.append(write_png(out / f"strip-{i}.png", picture))
    return tuple(path.name for path in files)


def _named(scores: Scores) -> dict[str, Curve]:
    return {
        "imagined": scores.imagined,
        "copy last real frame": scores.copying,
        "mean frame": scores.mean_frame,
    }


def _action_name(world: World, action: Any) -> str:
    if world.actions.kind == "discrete":
        return world.actions.names[int(action)]
    values = ", ".join(f"{name} {v:+.1f}" for name, v in zip(world.actions.names, action, strict=True))
    return values if not all(math.isclose(v, 0) for v in action) else "noop"
