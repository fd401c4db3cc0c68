"""Measures that need weights: what they are fed when the weights are there, and what is said when they are not."""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from worldloop.evaluation.metrics import psnr
from worldloop.evaluation.perceptual import Measure, Unavailable, load_dreamsim, load_lpips, load_measures

FRAMES = np.random.default_rng(0).integers(0, 256, (150, 24, 32, 3), dtype=np.uint8)
OTHERS = np.random.default_rng(1).integers(0, 256, (150, 24, 32, 3), dtype=np.uint8)


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty hub and working directory, and a network whose use is an error."""

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("a measure went to the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _pretend_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    models = ModuleType("torchvision.models")
    models.AlexNet_Weights = SimpleNamespace(DEFAULT=SimpleNamespace(url="https://nowhere/alexnet-1.pth"))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchvision", ModuleType("torchvision"))
    monkeypatch.setitem(sys.modules, "torchvision.models", models)


def test_without_packages_the_measures_are_unavailable_and_say_why(
    offline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torchvision.models", None)
    monkeypatch.setitem(sys.modules, "dreamsim", None)
    measures, missing = load_measures()
    assert [m.name for m in measures] == ["psnr", "ssim"]
    assert [(m.name, str(m)) for m in missing] == [("lpips", "unavailable"), ("dreamsim", "unavailable")]
    assert "torchvision" in missing[0].reason and "dreamsim" in missing[1].reason
    assert (measures[0].of(FRAMES, OTHERS) == psnr(FRAMES, OTHERS)).all()


def test_without_weights_nothing_is_fetched_and_nothing_takes_their_place(
    offline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _pretend_torchvision(monkeypatch)
    monkeypatch.setitem(sys.modules, "dreamsim", ModuleType("dreamsim"))
    lpips, dreamsim = load_lpips(), load_dreamsim()
    assert isinstance(lpips, Unavailable) and "alexnet-1.pth" in lpips.reason
    assert isinstance(dreamsim, Unavailable) and "ensemble_lora is missing" in dreamsim.reason


def test_lpips_sees_frames_between_minus_one_and_one(offline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.Tensor] = []

    class Network(torch.nn.Module):
        def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            seen.append(a)
            return (a - b).abs().mean((1, 2, 3), keepdim=True)

    _pretend_torchvision(monkeypatch)
    (offline / "hub" / "checkpoints").mkdir(parents=True)
    (offline / "hub" / "checkpoints" / "alexnet-1.pth").touch()
    monkeypatch.setattr(
        "torchmetrics.image.lpip.LearnedPerceptualImagePatchSimilarity",
        lambda net_type: SimpleNamespace(net=Network()) if net_type == "alex" else None,
    )
    measure = load_lpips()
    assert isinstance(measure, Measure) and not measure.higher_is_better
    frames = FRAMES.copy()
    frames[0, 0, 0], frames[0, 0, 1] = 0, 255
    values = measure.of(frames, OTHERS)
    # 2 x / 255 - 1 twice, apart: the mean absolute difference doubles.
    plain = [np.abs(f.astype(float) - o.astype(float)).mean() * 2 / 255 for f, o in zip(frames, OTHERS, strict=True)]
    assert values == pytest.approx(plain, rel=1e-5)
    assert seen[0][0, :, 0, 0].tolist() == [-1] * 3 and seen[0][0, :, 0, 1].tolist() == [1] * 3
    assert len(seen) == 3 and measure.of(frames[:0], OTHERS[:0]).shape == (0,)


def test_dreamsim_sees_squares_between_zero_and_one(offline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = ModuleType("dreamsim")
    seen: list[torch.Tensor] = []

    def dreamsim(pretrained: bool, device: str, cache_dir: str) -> Any:
        assert pretrained and cache_dir == "models"
        return (lambda a, b: seen.append(a) or (a - b).abs().mean((1, 2, 3))), None

    package.dreamsim = dreamsim  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "dreamsim", package)
    monkeypatch.setattr("worldloop.evaluation.perceptual._DREAMSIM_FILES", ("weights",))
    (offline / "models").mkdir()
    (offline / "models" / "weights").touch()
    measure = load_dreamsim()
    assert isinstance(measure, Measure)
    grey, white = np.full((2, 24, 32, 3), 51, np.uint8), np.full((2, 24, 32, 3), 255, np.uint8)
    assert measure.of(grey, white) == pytest.approx([0.8, 0.8], abs=1e-5)
    assert seen[0].shape == (2, 3, 224, 224) and float(seen[0].max()) == pytest.approx(0.2)


def test_frames_of_another_type_are_refused(offline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from worldloop.evaluation.perceptual import _batched

    with pytest.raises(ValueError, match="uint8 frames"):
        _batched(lambda a, b: a, "cpu")(FRAMES, OTHERS.astype(np.float32))  # type: ignore[arg-type]
