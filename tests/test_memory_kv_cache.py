"""RELIC's compressed cache: the same as computing everything anew, frame by frame."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from worldloop.world_models.memory.kv_cache import KeyValueCache, compressed_parts, ring_times, slot_pools
from worldloop.world_models.memory.packing import RELIC_SCHEDULE
from worldloop.world_models.prediction.cdit import CDiT
from worldloop.world_models.prediction.config import CDiTConfig
from worldloop.world_models.prediction.placement import CAMERAS

WINDOW, SIZE, GRID = 3, 18, (3, 5)


def model(camera: str = "rays") -> CDiT:
    torch.manual_seed(0)
    cdit = CDiT(CDiTConfig(2, 32, 2, context=(1,) * WINDOW, camera=camera), 4, GRID, 1.5, 100.0)  # type: ignore[arg-type]
    for parameter in cdit.parameters():
        if not bool(parameter.any()):
            torch.nn.init.normal_(parameter, std=0.2)
    return cdit.eval().requires_grad_(False)


def walked(steps: int, b: int = 2) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(steps)
    poses = torch.randn(b, steps, 5, generator=rng, dtype=torch.float64).cumsum(1)
    return torch.randn(b, steps, 4, *GRID, generator=rng), poses * torch.tensor([20, 20, 0, 0.3, 0])


def test_every_frame_has_its_slot() -> None:
    for newest in (0, 5, 17, 18, 100):
        times = ring_times(torch.tensor([newest]), SIZE)[0].tolist()
        assert sorted(times) == list(range(newest - SIZE + 1, newest + 1))
        assert [t % SIZE for t in times] == list(range(SIZE))
    assert slot_pools(36) == RELIC_SCHEDULE * 2


@pytest.mark.parametrize("camera", CAMERAS)
@pytest.mark.parametrize("steps", [1, 3, 9, 30, 64])
def test_cached_equals_uncached(camera: str, steps: int) -> None:
    """Worlds of different ages in one batch, cached step by step, against all frames read anew."""
    cdit = model(camera)
    latents, poses = walked(steps)
    ages = [steps, max(1, steps - 7)]
    level = torch.zeros(2, 1)
    cache = KeyValueCache.empty(cdit.read(latents[:, :1], level), WINDOW, SIZE, GRID)
    alone = []
    for world, age in enumerate(ages):
        one = KeyValueCache.from_tensors({k: t[world : world + 1] for k, t in cache.to_tensors().items()}, GRID)
        for t in range(age):
            seen = cdit.read(latents[world : world + 1, t : t + 1], level[:1])
            one = one.append(seen, poses[world : world + 1, t], torch.tensor([t]))
        alone.append(one)
    tensors = [one.to_tensors() for one in alone]
    both = KeyValueCache.from_tensors({k: torch.cat([t[k] for t in tensors]) for k in tensors[0]}, GRID)
    now = torch.tensor(ages)
    if steps > 20:
        both = both.append(cdit.read(latents[:, :1], level), poses[:, 0], now)  # a batch of unequal times
        now = now + 1
        latents = torch.cat([latents, latents[:, :1]], 1)
        latents[1, ages[1]], poses = latents[1, 0], torch.cat([poses, poses[:, :1]], 1)
        poses[1, ages[1]] = poses[1, 0]
    times = torch.cat([ring_times(now - 1, WINDOW), ring_times(now - 1 - WINDOW, SIZE)], 1)
    rows = times.clamp(min=0)
    frames = torch.stack([latents[i, r] for i, r in enumerate(rows)])
    places = torch.stack([poses[i, r] for i, r in enumerate(rows)])
    exist = times >= 0
    offset = torch.where(exist, times - now[:, None], -1)
    anew = compressed_parts(cdit.read, frames, torch.zeros(times.shape), places, offset, exist, WINDOW, GRID)
    target, last = poses[:, -1] + 5, frames[:, 0]
    moment, keys, motion = torch.full((2,), 0.4), torch.zeros(2, dtype=torch.int64), torch.zeros(2, 13)
    velocities = [
        cdit(last, moment, keys, motion, cdit.place(parts, last, target)) for parts in (both.parts(now), anew)
    ]
    torch.testing.assert_close(velocities[0], velocities[1], atol=1e-5, rtol=1e-5)
    # Something is really read from it.
    nothing = KeyValueCache.from_tensors({k: torch.zeros_like(t) for k, t in both.to_tensors().items()}, GRID)
    blank = cdit(last, moment, keys, motion, cdit.place(nothing.parts(now), last, target))
    assert float((blank - velocities[0]).abs().max()) > 1e-4


def test_pooled_keys_are_means_of_what_exists() -> None:
    cdit = model()
    seen = cdit.read(walked(1)[0], torch.zeros(2, 1))
    pooled = seen.pooled(GRID, 2).blocks[1]
    whole = seen.blocks[1].unflatten(2, GRID)
    assert pooled.shape[2] == 2 * 3
    expected = whole[:, :, 0:2, 2:4].mean((2, 3))
    torch.testing.assert_close(pooled.unflatten(2, (2, 3))[:, :, 0, 1], expected)
    corner = whole[:, :, 2, 4]
    torch.testing.assert_close(pooled.unflatten(2, (2, 3))[:, :, 1, 2], corner)


def test_about_four_times_fewer_tokens() -> None:
    tokens = sum(256 // pool**2 for pool in RELIC_SCHEDULE)
    assert tokens < 18 * 256 / 4


def test_sizes_that_do_not_fit_are_refused() -> None:
    cdit = model()
    seen = cdit.read(walked(1)[0], torch.zeros(2, 1))
    for window, size in ((0, 18), (3, 17), (3, 0)):
        with pytest.raises(ValueError, match="multiple of 18"):
            KeyValueCache.empty(seen, window, size, GRID)
