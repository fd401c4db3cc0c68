"""Pictures show what they claim, pixel by pixel."""

from __future__ import annotations

from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest

from worldloop.evaluation.figures import Panel, horizon_figure, write_figure
from worldloop.evaluation.media import (
    error_picture,
    panes,
    strip,
    upscale,
    write_gif,
    write_png,
    write_video,
)
from worldloop.evaluation.metrics import bootstrap_curve


@pytest.fixture
def clip() -> np.ndarray:
    # Blocks of 8 pixels survive the chroma subsampling of H.264.
    small = np.random.default_rng(0).integers(0, 256, (5, 3, 4, 3), dtype=np.uint8)
    return upscale(small, 8)


def test_upscaling_repeats_pixels() -> None:
    frame = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    big = upscale(frame, 3)
    assert big.shape == (6, 6, 3)
    assert all((big[i, j] == frame[i // 3, j // 3]).all() for i in range(6) for j in range(6))


def test_equal_pixels_are_black_and_worse_is_brighter() -> None:
    true = np.zeros((1, 5, 3), np.uint8)
    predicted = np.repeat(np.array([0, 30, 60, 120, 255], np.uint8)[None, :, None], 3, -1)
    light = error_picture(predicted, true)[0].astype(int).sum(-1)
    assert light[0] < 10 and (np.diff(light[:4]) > 0).all() and light[4] > light[3]


def test_panes_hold_every_clip_untouched(clip: np.ndarray) -> None:
    other = 255 - clip
    shown = panes({"true": clip, "imagined": other}, ["a"] * 5, scale=2)
    top, h, w = 24, 48, 64
    assert (shown[:, top : top + h, 8 : 8 + w] == upscale(clip, 2)).all()
    assert (shown[:, top : top + h, 16 + w : 16 + 2 * w] == upscale(other, 2)).all()
    assert shown.shape[1] % 2 == shown.shape[2] % 2 == 0


def test_captions_differ_frame_by_frame(clip: np.ndarray) -> None:
    shown = panes({"true": clip}, [f"step {t}" for t in range(5)])
    feet = {shown[t, -20:].tobytes() for t in range(5)}
    assert len(feet) == 5


def test_a_strip_runs_right_in_time(clip: np.ndarray) -> None:
    picture = strip({"true": clip}, scale=1)
    assert (picture[24 : 24 + 24, -36:-4] == clip[-1]).all()


def test_a_video_can_be_read_back(clip: np.ndarray, tmp_path: Path) -> None:
    shown = panes({"true": clip}, scale=4)
    path = write_video(tmp_path / "deep" / "clip.mp4", shown)
    back = iio.imread(path, plugin="pyav")
    assert back.shape == shown.shape
    assert np.abs(back.astype(int) - shown.astype(int)).mean() < 6
    assert iio.immeta(path, plugin="pyav")["codec"] == "h264"


def test_a_png_is_exact_and_a_gif_moves(clip: np.ndarray, tmp_path: Path) -> None:
    assert (iio.imread(write_png(tmp_path / "a.png", clip[0])) == clip[0]).all()
    gif = iio.imread(write_gif(tmp_path / "a.gif", clip))
    assert len(gif) == 5 and np.abs(gif.astype(int) - clip.astype(int)).mean() < 3


def test_nothing_but_the_picture_is_left_behind(clip: np.ndarray, tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", panes({"true": clip}))
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]


def test_clips_that_do_not_fit_together_are_refused(clip: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="one shape"):
        panes({"true": clip, "imagined": clip[:2]})
    with pytest.raises(ValueError, match="5 captions"):
        panes({"true": clip}, ["only one"])
    with pytest.raises(ValueError, match="5 labels"):
        strip({"true": clip}, [1])
    with pytest.raises(ValueError, match="even sides"):
        write_video(tmp_path / "a.mp4", np.zeros((2, 5, 5, 3), np.uint8))


def test_figures_touch_no_global_state(tmp_path: Path) -> None:
    import matplotlib._pylab_helpers as helpers

    curve = bootstrap_curve(np.random.default_rng(0).normal(size=(6, 4)), range(6))
    figure = horizon_figure([Panel("t", "PSNR (dB)", {"a": curve, "b": curve})])
    path = write_figure(tmp_path / "f.png", figure)
    assert iio.imread(path).shape[1] > 300 and not helpers.Gcf.figs
