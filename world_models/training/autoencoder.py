"""First stage: the frame autoencoder."""

from __future__ import annotations

import logging
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...files import growing
from ...rollouts.cache import TrainingCache
from ..noise import normal
from ..perception.autoencoder import Autoencoder, to_pictures
from .config import StageConfig

logger = logging.getLogger(__name__)

LATENT_NOISE = 0.1
LATENT_PENALTY = 1e-3


class AutoencoderStage:
    """Reconstruction in L1 + L2, with a little noise on the latents so that near latents decode alike."""

    name = "autoencoder"

    def __init__(self, autoencoder: Autoencoder, cache: TrainingCache, config: StageConfig, seed: int) -> None:
        self.module = autoencoder
        self._cache, self._config, self._seed = cache, config, seed

    def loss(self, step: int) -> dict[str, Tensor]:
        """Losses of one batch of frames drawn from all of them."""
        device = self.module.latent_mean.device
        starts = self._cache.window_indices(step, self._config.batch_size, 1, self._seed)
        pictures = to_pictures(torch.from_numpy(self._cache.frames[np.sort(starts)]).to(device))
        latents = self.module.encoder(pictures)
        seeds = torch.full((len(starts),), self._seed, device=device)
        counter = step * len(starts) + torch.arange(len(starts), device=device)
        noise = normal(seeds, counter, tuple(latents.shape[1:]), stream=1)
        error = self.module.decoder(latents + LATENT_NOISE * noise) - pictures
        return {
            "absolute": error.abs().mean(),
            "squared": error.square().mean(),
            "latents": LATENT_PENALTY * latents.square().mean(),
        }


@torch.no_grad()
def normalise_latents(autoencoder: Autoencoder, cache: TrainingCache, seed: int, samples: int = 4096) -> None:
    """Set the autoencoder's latent mean and deviation per channel from random training frames."""
    device = autoencoder.latent_mean.device
    starts = np.sort(cache.window_indices(0, samples, 1, seed))
    latents = torch.cat(
        [
            autoencoder.encoder(to_pictures(torch.from_numpy(cache.frames[part]).to(device)))
            for part in np.array_split(starts, 32)
        ]
    )
    autoencoder.latent_mean.copy_(latents.mean((0, 2, 3))[:, None, None])
    autoencoder.latent_std.copy_(latents.std((0, 2, 3)).clamp(min=1e-3)[:, None, None])


def mean_frame(cache: TrainingCache, seed: int, samples: int = 4096) -> Tensor:
    """The mean (H, W, 3) of random training frames in whole numbers, float32."""
    starts = np.sort(cache.window_indices(0, samples, 1, seed))
    return torch.from_numpy(np.round(cache.frames[starts].mean(0, dtype=np.float64)).astype(np.float32))


@torch.no_grad()
def encode_cache(
    autoencoder: Autoencoder,
    cache: TrainingCache,
    path: Path,
    batch_size: int = 256,
    tell: Callable[[int, int], None] = lambda done, of: None,
) -> NDArray[np.float16]:
    """Latents (N, C, h, w) of every frame of a cache, computed once and memory-mapped from ``path`` after that.

    What an interruption leaves is gone on with.

    Args:
        autoencoder: encodes.
        cache: N frames.
        path: an ``.npy`` file; while it is not whole it is called ``.partial``.
        batch_size: frames encoded at once.
        tell: called with the frames that are encoded, of N, after every batch.
    """
    if not path.exists():
        n, device = cache.num_frames, autoencoder.latent_mean.device

        def encode(start: int, stop: int) -> NDArray[np.float16]:
            frames = torch.from_numpy(np.array(cache.frames[start:stop])).to(device)
            return autoencoder.encode(to_pictures(frames)).to(torch.float16).cpu().numpy()

        one = encode(0, 1)
        head = BytesIO()
        np.lib.format.write_array_header_1_0(
            head, {"descr": one.dtype.str, "fortran_order": False, "shape": (n, *one.shape[1:])}
        )
        header = head.getvalue()
        with growing(path, header) as file:
            done = (file.tell() - len(header)) // one.nbytes
            logger.info("Encoding %d frames", n - done)
            file.truncate(len(header) + done * one.nbytes)
            for start in range(done, n, batch_size):
                file.write(encode(start, start + batch_size).tobytes())
                tell(min(start + batch_size, n), n)
    encoded: NDArray[np.float16] = np.load(path, mmap_mode="r")
    return encoded
