"""A world of the bundled model does not depend on which worlds are computed beside it.

In any order, with forks elsewhere and pictures drawn in between: bit by bit the same. In batches of another size the
same up to rounding; on an AMD EPYC bit by bit where both have four or more, on an Intel Xeon with AVX-512 not. Op by op
on the first (processor, float32, one thread), rows of one world among 64 against the same rows alone: all that works on
tokens is exact (projections, MLP, norms, both attentions). What has one row or one small picture per world is not:
matrix products of fewer than four rows add up in another order than larger ones (up to 6e-6), and so do convolutions of
a single picture on the 6x8 latent grid (up to 2e-5). Memory keeps latents in half precision, where now and then such a
difference turns a rounding: with a float32 memory, later steps of two worlds of three differed ten times less.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

import worldloop
from worldloop.world_models.state import WorldState
from worldloop.world_models.world_model import WorldModel

STEPS = 12
LATENTS = 2e-3
"""Five times the largest difference seen in 64 worlds."""


@pytest.fixture(scope="module")
def world() -> WorldModel:
    return worldloop.load_world("doom-rooms-tiny")


def walked(world: WorldModel, chosen: list[int]) -> WorldState:
    """The worlds of those numbers, each with a past of its own that is longer than what it sees at once."""
    frames, poses = [], []
    for number in chosen:
        rng = np.random.default_rng(number)
        frames.append(rng.integers(0, 256, (12, 48, 64, 3), dtype=np.uint8))
        track = np.zeros((12, 5))
        track[:, :2] = rng.normal(0, 20, (12, 2)).cumsum(0)
        track[:, 3] = rng.uniform(-3, 3, 12)
        poses.append(track)
    start = world.start(len(chosen), chosen)
    return world.observe(start, np.stack(frames), np.ones((len(chosen), 12), np.int64), np.stack(poses))


def lived(world: WorldModel, state: WorldState, chosen: list[int], steps: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Latents, poses, pictures and times of what was retrieved, (B, steps, ...) each, of worlds of those numbers."""
    plans = np.stack([np.random.default_rng(1_000 + number).integers(0, 7, steps) for number in chosen])
    seen = []
    with torch.no_grad():
        for t in range(steps):
            state, step = world.imagine(state, plans[:, t])
            seen.append((step.latents, step.pose, world.render(step.latents), step.retrieved_times))
    latents, poses, pictures, times = (torch.stack(part, 1) for part in zip(*seen, strict=True))
    return latents, poses, pictures, times


def same_but_for_rounding(one: Sequence[Tensor], other: Sequence[Tensor]) -> None:
    latents, poses, pictures, times = one
    assert (times >= 0).any()
    assert torch.equal(times, other[3])
    torch.testing.assert_close(latents, other[0], atol=LATENTS, rtol=0)
    torch.testing.assert_close(poses, other[1], atol=1e-3, rtol=0)
    assert int((pictures.int() - other[2].int()).abs().max()) <= 1


def alike_alone(world: WorldModel, batch: int, looked_at: list[int]) -> None:
    everyone = list(range(batch))
    together = lived(world, walked(world, everyone), everyone, STEPS)
    for number in looked_at:
        alone = lived(world, walked(world, [number]), [number], STEPS)
        same_but_for_rounding([part[number : number + 1] for part in together], alone)


def test_a_world_of_eight_is_that_world_alone(world: WorldModel) -> None:
    alike_alone(world, 8, [0, 5])


@pytest.mark.slow
def test_a_world_of_sixty_four_is_that_world_alone(world: WorldModel) -> None:
    alike_alone(world, 64, [0, 5, 63])


def test_worlds_of_eight_are_those_worlds_in_fours(world: WorldModel) -> None:
    together = lived(world, walked(world, list(range(8))), list(range(8)), 4)
    fours = [lived(world, walked(world, some), some, 4) for some in ([0, 1, 2, 3], [4, 5, 6, 7])]
    same_but_for_rounding(together, [torch.cat(parts) for parts in zip(*fours, strict=True)])


def test_the_order_of_worlds_changes_nothing(world: WorldModel) -> None:
    order = [6, 0, 3, 7, 1, 5, 2, 4]
    straight = lived(world, walked(world, list(range(8))), list(range(8)), 4)
    shuffled = lived(world, walked(world, order), order, 4)
    for one, other in zip(straight, shuffled, strict=True):
        assert torch.equal(one[order], other)


def test_forks_elsewhere_and_pictures_drawn_in_between_change_nothing(world: WorldModel) -> None:
    state, plan = walked(world, [0, 1]), np.array([1, 5])
    expected, undisturbed, disturbed = [], state, state
    with torch.no_grad():
        for _ in range(4):
            undisturbed, step = world.imagine(undisturbed, plan)
            expected.append(step)
        for step in expected:
            branches = disturbed.fork(3)
            for action in (2, 6):
                branches, elsewhere = world.imagine(branches, np.full(6, action))
                world.render(elsewhere.latents)
            disturbed, again = world.imagine(disturbed, plan)
            world.render(again.latents)
            for name in ("latents", "pose", "reward", "continues", "uncertainty", "retrieved_times"):
                assert torch.equal(getattr(step, name), getattr(again, name)), name
            assert not torch.equal(elsewhere.latents[0], again.latents[0])
