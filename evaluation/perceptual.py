"""Likeness as people see it: LPIPS and DreamSim, where their weights are on this machine, and nothing in their place.

Nothing is ever downloaded: a measure whose package or weights are missing is `Unavailable`, with the reason.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .media import Frames
from .metrics import FloatArray, psnr, ssim

Similarity = Callable[[Frames, Frames], FloatArray]
"""(predicted, true), both uint8 (N, H, W, 3) -> (N,)."""

_CHUNK = 64
_DREAMSIM_SIZE = 224
_DREAMSIM_FILES = (
    "ensemble_lora",
    "dino_vitb16_pretrain.pth",
    "clip_vitb16_pretrain.pth.tar",
    "open_clip_vitb16_pretrain.pth.tar",
    "facebookresearch_dino_main",
    "checkpoints/dino_vitbase16_pretrain.pth",
)


@dataclass(frozen=True)
class Measure:
    """One way to say how alike two frames are.

    Attributes:
        name: as it stands in reports.
        unit: empty where there is none.
        higher_is_better: False for distances.
        of: (predicted, true) frames uint8 (N, H, W, 3) -> (N,) float64.
    """

    name: str
    unit: str
    higher_is_better: bool
    of: Similarity


@dataclass(frozen=True)
class Unavailable:
    """A measure that this machine cannot compute.

    Attributes:
        name: of the measure.
        reason: one sentence that says what is missing, and where it was looked for.
    """

    name: str
    reason: str

    def __str__(self) -> str:
        return "unavailable"


def load_measures(device: torch.device | str = "cpu") -> tuple[list[Measure], list[Unavailable]]:
    """PSNR, SSIM, LPIPS and DreamSim: those that can be computed here, and those that cannot."""
    found: list[Measure | Unavailable] = [
        Measure("psnr", "dB", True, psnr),
        Measure("ssim", "", True, ssim),
        load_lpips(device),
        load_dreamsim(device),
    ]
    return [m for m in found if isinstance(m, Measure)], [m for m in found if isinstance(m, Unavailable)]


def load_lpips(device: torch.device | str = "cpu") -> Measure | Unavailable:
    """LPIPS (Zhang et al. 2018) with AlexNet features, on frames scaled to the [-1, 1] it was made for.

    The backbone's weights are looked for where torchvision keeps them, ``$TORCH_HOME/hub/checkpoints``.
    """
    try:
        weights_of = importlib.import_module("torchvision.models").AlexNet_Weights.DEFAULT
    except ImportError:
        return Unavailable("lpips", "LPIPS needs the package torchvision, which is not installed.")
    weights = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights_of.url).name
    if not weights.is_file():
        return Unavailable("lpips", f"The AlexNet weights of LPIPS, {weights.name}, are not in the torch hub's cache.")
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

    # The layers are initialised at random before their weights are read; that is nobody else's chance.
    with torch.random.fork_rng(devices=[]):
        net = LearnedPerceptualImagePatchSimilarity(net_type="alex").net.to(device)
    return Measure("lpips", "", False, _batched(lambda a, b: net(2 * a - 1, 2 * b - 1), device))


def load_dreamsim(device: torch.device | str = "cpu", directory: Path = Path("models")) -> Measure | Unavailable:
    """DreamSim (Fu et al. 2023), the ensemble, on frames in [0, 1] resized to 224 x 224 as it was made for.

    Args:
        device: where to compute.
        directory: where the package keeps its weights and the code of its backbone; ``./models`` by its own default.
    """
    try:
        package = importlib.import_module("dreamsim")
    except ImportError:
        return Unavailable("dreamsim", "DreamSim needs the package dreamsim, which is not installed.")
    missing = [name for name in _DREAMSIM_FILES if not (directory / name).exists()]
    if missing:
        return Unavailable("dreamsim", f"The weights of DreamSim are not in {directory}: {missing[0]} is missing.")
    hub = torch.hub.get_dir()
    try:
        with torch.random.fork_rng(devices=[]):
            model, _ = package.dreamsim(pretrained=True, device=str(device), cache_dir=str(directory))
    finally:
        # The package points torch's hub at its own directory.
        torch.hub.set_dir(hub)

    def compare(a: Tensor, b: Tensor) -> Tensor:
        distance: Tensor = model(_resize(a), _resize(b))
        return distance

    return Measure("dreamsim", "", False, _batched(compare, device))


def _resize(frames: Tensor) -> Tensor:
    size = (_DREAMSIM_SIZE, _DREAMSIM_SIZE)
    resized = torch.nn.functional.interpolate(frames, size, mode="bicubic", antialias=True, align_corners=False)
    return resized.clamp(0, 1)


def _batched(compare: Callable[[Tensor, Tensor], Any], device: torch.device | str) -> Similarity:
    """A `Similarity` from a function of two float tensors (n, 3, H, W) in [0, 1], called on a few frames at a time."""

    def of(predicted: Frames, true: Frames) -> FloatArray:
        if predicted.shape != true.shape or predicted.ndim != 4 or {predicted.dtype, true.dtype} != {np.dtype("uint8")}:
            raise ValueError(
                "Expected two arrays of uint8 frames (N, H, W, 3) of one shape, "
                f"got {predicted.dtype} {predicted.shape} and {true.dtype} {true.shape}."
            )
        parts = [np.empty(0)]
        with torch.inference_mode():
            for i in range(0, len(true), _CHUNK):
                a, b = (
                    torch.from_numpy(np.array(f[i : i + _CHUNK])).to(device).permute(0, 3, 1, 2).to(torch.float32) / 255
                    for f in (predicted, true)
                )
                parts.append(compare(a, b).reshape(-1).to(torch.float64).cpu().numpy())
        return np.concatenate(parts)

    return of
