"""Pictures a person can read: true, imagined and error side by side, as PNG strips, GIFs and H.264 videos.

Frames are uint8 (T, H, W, 3), upscaled by whole numbers without smoothing so that a pixel stays a square.
Files are written whole or not at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import imageio.v3 as iio
import numpy as np
from matplotlib import colormaps
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ..files import write_bytes

Frames = NDArray[np.uint8]

ERROR_RANGE = 0.5
"""Mean absolute error, as a share of full brightness, that takes the brightest colour of an error picture."""

PAPER = (250, 250, 247)
INK = (30, 30, 34)
FAINT = (120, 120, 126)
LINE = 16


def error_picture(predicted: Frames, true: Frames) -> Frames:
    """Where two frames (..., H, W, 3) differ, as colours (..., H, W, 3): black is equal, bright is wrong.

    The mean absolute error over the channels, through matplotlib's ``inferno``, saturating at `ERROR_RANGE`.
    """
    error = np.abs(predicted.astype(np.float32) - true.astype(np.float32)).mean(-1) / 255
    index = np.round(np.clip(error / ERROR_RANGE, 0, 1) * 255).astype(np.uint8)
    table = np.round(colormaps["inferno"](np.arange(256))[:, :3] * 255).astype(np.uint8)
    picture: Frames = table[index]
    return picture


def upscale(frames: Frames, factor: int) -> Frames:
    """Frames (..., H, W, 3) with every pixel a square of ``factor`` x ``factor``."""
    return frames.repeat(factor, -3).repeat(factor, -2)


def panes(columns: Mapping[str, Frames], captions: Sequence[str] | None = None, scale: int = 4) -> Frames:
    """Clips side by side, each under its name: frames (T, H', W', 3) with even sides, ready for a video.

    Args:
        columns: name to clip (T, H, W, 3); all of one shape.
        captions: one line per frame, written below; None for none.
        scale: whole-number magnification.

    Raises:
        ValueError: no clip, clips of different shapes, or another number of captions than frames.
    """
    shapes = {clip.shape for clip in columns.values()}
    if len(shapes) != 1:
        raise ValueError(f"Clips shown side by side need one shape, got {sorted(shapes)}.")
    length, height, width, _ = next(iter(shapes))
    if captions is not None and len(captions) != length:
        raise ValueError(f"Expected {length} captions, one per frame, got {len(captions)}.")
    gap, h, w = 8, height * scale, width * scale
    foot = LINE + 8 if captions is not None else gap
    board = Image.new("RGB", (_even(len(columns) * (w + gap) + gap), _even(LINE + 8 + h + foot)), PAPER)
    draw = ImageDraw.Draw(board)
    for i, name in enumerate(columns):
        draw.text((gap + i * (w + gap), 4), name, INK, font=_font())
    shown = np.repeat(np.asarray(board)[None], length, 0)
    for i, clip in enumerate(columns.values()):
        left = gap + i * (w + gap)
        shown[:, LINE + 8 : LINE + 8 + h, left : left + w] = upscale(clip, scale)
    for t, caption in enumerate(captions or ()):
        shown[t, LINE + 8 + h :] = _line(caption, shown.shape[2], shown.shape[1] - LINE - 8 - h, gap)
    return shown


def strip(rows: Mapping[str, Frames], times: Sequence[int] | None = None, scale: int = 2) -> Frames:
    """Clips one above the other, time running right: one picture (H', W', 3).

    Args:
        rows: name to clip (T, H, W, 3); all of one shape.
        times: label above each of the T columns; default 1 … T.
        scale: whole-number magnification.

    Raises:
        ValueError: no clip, or clips of different shapes, or another number of labels than frames.
    """
    shapes = {clip.shape for clip in rows.values()}
    if len(shapes) != 1:
        raise ValueError(f"Clips shown in one strip need one shape, got {sorted(shapes)}.")
    length, height, width, _ = next(iter(shapes))
    labels = list(times) if times is not None else list(range(1, length + 1))
    if len(labels) != length:
        raise ValueError(f"Expected {length} labels, one per frame, got {len(labels)}.")
    gap, h, w = 4, height * scale, width * scale
    margin = 12 + max(int(_font().getlength(name)) for name in rows)
    board = Image.new("RGB", (margin + length * (w + gap), LINE + 8 + len(rows) * (h + gap)), PAPER)
    draw = ImageDraw.Draw(board)
    for t, label in enumerate(labels):
        draw.text((margin + t * (w + gap) + w // 2, 4), str(label), FAINT, font=_font(), anchor="ma")
    for i, (name, clip) in enumerate(rows.items()):
        top = LINE + 8 + i * (h + gap)
        draw.text((6, top + h // 2), name, INK, font=_font(), anchor="lm")
        for t in range(length):
            board.paste(Image.fromarray(upscale(clip[t], scale)), (margin + t * (w + gap), top))
    return np.asarray(board)


def write_png(path: Path, picture: Frames) -> Path:
    """Write one picture (H, W, 3)."""
    write_bytes(path, iio.imwrite("<bytes>", picture, extension=".png", plugin="pillow"))
    return path


def write_gif(path: Path, frames: Frames, fps: int = 6) -> Path:
    """Write frames (T, H, W, 3) as an endless GIF, which every page and reader shows."""
    duration = round(1000 / fps)
    write_bytes(
        path, iio.imwrite("<bytes>", frames, extension=".gif", plugin="pillow", duration=duration, loop=0)
    )
    return path


def write_video(path: Path, frames: Frames, fps: int = 6) -> Path:
    """Write frames (T, H, W, 3), of even height and width, as H.264 in an mp4.

    Raises:
        ValueError: an odd height or width, which H.264 in its common form cannot hold.
    """
    if frames.shape[1] % 2 or frames.shape[2] % 2:
        raise ValueError(f"H.264 needs even sides, got {frames.shape[1]} x {frames.shape[2]}.")
    write_bytes(
        path,
        iio.imwrite("<bytes>", frames, extension=".mp4", plugin="pyav", codec="libx264", fps=fps),
    )
    return path


@cache
def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(LINE - 3)


def _line(text: str, width: int, height: int, left: int) -> Frames:
    board = Image.new("RGB", (width, height), PAPER)
    ImageDraw.Draw(board).text((left, 4), text, FAINT, font=_font())
    return np.asarray(board)


def _even(n: int) -> int:
    return n + n % 2
