"""Poses, actions, noise, positions and flow: each against an obvious computation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from worldloop.world_models.actions import key_class, motion_from_magnitudes, motion_magnitudes
from worldloop.world_models.noise import normal, uniform
from worldloop.world_models.pose import forward_vector, motion_between, move
from worldloop.world_models.prediction.cdit import CDiT
from worldloop.world_models.prediction.config import CDiTConfig
from worldloop.world_models.prediction.flow import clean_from, integrate, interpolate, velocity
from worldloop.world_models.prediction.rotary import (
    frequencies,
    rotate,
    rotation,
    token_azimuths,
    token_positions,
)


def test_moving_by_the_motion_between_two_poses_arrives() -> None:
    start, end = torch.rand(2, 100, 5, dtype=torch.float64) * 2 - 1
    torch.testing.assert_close(move(start, motion_between(start, end)), end)


def test_forward_is_where_the_camera_looks() -> None:
    pose = torch.tensor([1.0, 2.0, 3.0, 0.7, 0.3], dtype=torch.float64)
    ahead = move(pose, torch.tensor([2.0, 0, 0, 0, 0], dtype=torch.float64))
    torch.testing.assert_close(ahead[:3] - pose[:3], 2 * forward_vector(pose))
    torch.testing.assert_close(
        forward_vector(pose),
        torch.tensor(
            [math.cos(0.3) * math.cos(0.7), math.cos(0.3) * math.sin(0.7), math.sin(0.3)], dtype=torch.float64
        ),
    )


def test_magnitudes_round_trip_and_opposite_keys_cancel() -> None:
    motion = torch.rand(50, 5) * 2 - 1
    magnitudes = motion_magnitudes(motion, 25.0, 0.4)
    assert bool((magnitudes >= 0).all()) and magnitudes.shape == (50, 13)
    torch.testing.assert_close(motion_from_magnitudes(magnitudes, 25.0, 0.4), motion)
    left, right = torch.tensor([0.0, 25, 0, 0, 0]), torch.tensor([0.0, -25, 0, 0, 0])
    assert key_class(left + right) == key_class(torch.zeros(5)) == 40


def test_the_81_key_classes_are_distinct() -> None:
    grid = torch.cartesian_prod(*[torch.tensor([-1.0, 0, 1])] * 4)
    motions = torch.stack([grid[:, 0], grid[:, 1], torch.zeros(81), grid[:, 2], grid[:, 3]], 1)
    assert sorted(key_class(motions).tolist()) == list(range(81))


def test_noise_depends_on_seed_step_and_stream_and_not_on_the_batch() -> None:
    seeds, steps = torch.arange(64), torch.full((64,), 5)
    batch = normal(seeds, steps, (16, 6, 8))
    assert torch.equal(batch[7:8], normal(seeds[7:8], steps[7:8], (16, 6, 8)))
    for other in (
        normal(seeds, steps + 1, (16, 6, 8)),
        normal(seeds + 64, steps, (16, 6, 8)),
        normal(seeds, steps, (16, 6, 8), 1),
    ):
        assert abs(float(torch.corrcoef(torch.stack([batch.flatten(), other.flatten()]))[0, 1])) < 0.02


def test_noise_is_normal_and_always_finite() -> None:
    draws = normal(torch.arange(2000), torch.zeros(2000, dtype=torch.int64), (5000,))
    assert bool(torch.isfinite(draws).all())
    values = np.sort(draws.flatten().numpy()[:1_000_000])
    expected = torch.special.ndtr(torch.from_numpy(values)).numpy()
    distance = np.abs(expected - (np.arange(len(values)) + 0.5) / len(values)).max()
    assert distance < 2e-3  # Kolmogorov-Smirnov, 99.9 % below 1.95e-3
    assert float(uniform(torch.arange(9), torch.arange(9), (9,)).min()) > 0


def test_rotated_attention_depends_on_differences_only() -> None:
    table = frequencies(32)
    q, k = torch.randn(2, 1, 4, 1, 32)
    where, there = torch.rand(2, 1, 4, 4) * 5
    shift = torch.tensor([3.0, 1.0, 2.0, 0.5])

    def product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return (rotate(q, rotation(a, table)) * rotate(k, rotation(b, table))).sum(-1)

    torch.testing.assert_close(product(where, there), product(where + shift, there + shift), atol=1e-4, rtol=1e-4)
    full_turn = torch.tensor([0.0, 0.0, 0.0, 2 * math.pi])
    torch.testing.assert_close(product(where, there), product(where + full_turn, there), atol=1e-4, rtol=1e-4)


def test_a_direction_has_the_same_azimuth_from_two_headings() -> None:
    azimuth = token_azimuths(8, math.pi / 2)
    assert azimuth[0] > 0 > azimuth[-1]
    torch.testing.assert_close(azimuth, -azimuth.flip(0))
    turned = token_positions((1, 8), math.pi / 2, torch.zeros(1), torch.tensor([float(azimuth[0] - azimuth[1])]))
    straight = token_positions((1, 8), math.pi / 2, torch.zeros(1), torch.zeros(1))
    assert float(turned[0, 1, 3]) == pytest.approx(float(straight[0, 0, 3]), abs=1e-6)


def test_pooled_tokens_take_the_mean_of_what_they_pool() -> None:
    zero = torch.zeros(1)
    fine = token_positions((6, 8), 1.5, zero, zero + 3, 1).view(6, 8, 4)
    pooled = token_positions((6, 8), 1.5, zero, zero + 3, 2).view(3, 4, 4)
    expected = torch.nn.functional.avg_pool2d(fine.permute(2, 0, 1), 2).permute(1, 2, 0)
    torch.testing.assert_close(pooled, expected)


def test_pooled_projections_begin_as_the_mean_of_the_base_one() -> None:
    model = CDiT(CDiTConfig(1, 32, 2, context=(4, 2, 1)), 3, (8, 8), 1.5)
    flat = torch.randn(1, 3, 1, 1).expand(1, 3, 8, 8)
    base = model.context_in["1"](model.patchify(flat))[:, :1]
    for pool in (2, 4):
        tokens = model.context_in[str(pool)](model.patchify(flat, pool))
        assert tokens.shape[1] == (8 // pool) ** 2
        torch.testing.assert_close(tokens[:, :1], base, atol=1e-5, rtol=1e-5)


def test_patches_round_trip_on_grids_that_are_not_square() -> None:
    model = CDiT(CDiTConfig(1, 32, 2, patch=2), 3, (4, 10), 1.5)
    latents = torch.randn(2, 3, 4, 10)
    assert torch.equal(model.unpatchify(model.patchify(latents)), latents)


def test_flow_runs_from_noise_to_clean_with_velocity_clean_minus_noise() -> None:
    clean, noise = torch.randn(2, 4, 3)
    zero, one = torch.zeros(4), torch.ones(4)
    assert torch.equal(interpolate(clean, noise, zero), noise) and torch.equal(interpolate(clean, noise, one), clean)
    k = torch.rand(4)
    torch.testing.assert_close(clean_from(interpolate(clean, noise, k), velocity(clean, noise), k), clean)
    sample, mean = integrate(lambda x, k: velocity(clean, noise), noise, 3)
    torch.testing.assert_close(sample, clean)
    torch.testing.assert_close(mean, clean)


@pytest.mark.parametrize("steps", [8, 12])
def test_few_steps_of_the_multistep_sampler_find_what_is_possible_and_not_likely(steps: int) -> None:
    # One of ten clean numbers is 1, the others are 0, each with a spread of 0.05: the exact velocity is known.
    levels, chances, spread = torch.tensor([0.0, 1.0]), torch.tensor([0.9, 0.1]), 0.05

    def field(x: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        k, z = k.view(-1, 1), x.view(-1, 1)
        variance = (1 - k) ** 2 + (k * spread) ** 2
        weights = torch.softmax(chances.log() - (z - k * levels) ** 2 / (2 * variance), 1)
        clean = levels + k * spread**2 / variance * (z - k * levels)
        noise = (1 - k) / variance * (z - k * levels)
        return (weights * (clean - noise)).sum(1)

    noise = torch.randn(20_000, generator=torch.Generator().manual_seed(0))
    share = {s: float((integrate(field, noise, steps, s)[0] > 0.5).float().mean()) for s in ("euler", "multistep")}
    best = float((integrate(field, noise, 500)[0] > 0.5).float().mean())
    assert best == pytest.approx(0.1, abs=0.01)
    assert abs(share["multistep"] - best) < 0.6 * abs(share["euler"] - best)
    # On a straight path both are exact.
    clean = torch.randn(5, 3)
    start = torch.randn(5, 3)
    assert torch.allclose(integrate(lambda x, k: clean - start, start, steps, "multistep")[0], clean, atol=1e-5)
