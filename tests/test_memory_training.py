"""Training for memory: walks with a past, palindromes, what is hidden and what is retrieved."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from worldloop.errors import ConfigError
from worldloop.rollouts.cache import TrainingCache
from worldloop.rollouts.episode import Episode
from worldloop.rollouts.metadata import DatasetInfo
from worldloop.rollouts.store import DatasetWriter, open_dataset
from worldloop.world_models.actions import ActionSpec
from worldloop.world_models.config import preset
from worldloop.world_models.memory.packing import packing_named
from worldloop.world_models.memory.recurrent import ConvLSTM
from worldloop.world_models.training.chance import Chance
from worldloop.world_models.training.config import MemoryTraining, StageConfig
from worldloop.world_models.training.dynamics import DynamicsStage
from worldloop.world_models.training.histories import draw_histories
from worldloop.world_models.world_model import WorldModel

LENGTHS = (30, 12, 45)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> TrainingCache:
    spec = ActionSpec("discrete", ("stay", "turn"), ((0, 0, 0, 0, 0), (0, 0, 0, 0.4, 0)))
    path: Path = tmp_path_factory.mktemp("data") / "train"
    writer = DatasetWriter.create(path, DatasetInfo("numbers", {}, (16, 16), spec, "train"))
    for seed, length in enumerate(LENGTHS):
        poses = np.zeros((length, 5))
        poses[:, 0] = np.arange(length)
        no = np.zeros(length, bool)
        frames = np.zeros((length, 16, 16, 3), np.uint8)
        actions, rewards = np.zeros(length, np.int64), np.zeros(length, np.float32)
        writer.add(Episode(frames, actions, poses, rewards, no, no, no, no, seed))
    return TrainingCache.of(open_dataset(path))


def test_a_walk_is_its_episode_up_to_the_target(cache: TrainingCache) -> None:
    walks = draw_histories(cache, 3, 5, 400, 0, np.zeros(400, bool), np.zeros(400))
    assert walks.recorded.all()
    starts = np.cumsum((0, *LENGTHS))
    reached = set()
    for rows, target in zip(walks.rows, walks.target, strict=True):
        episode = int(np.searchsorted(starts, rows[0], side="right")) - 1
        assert rows[: target + 1].tolist() == list(range(starts[episode], starts[episode] + target + 1))
        assert 3 <= target < LENGTHS[episode]
        reached.add((episode, int(target)))
    # Every frame with three before it may be asked for: 27 + 9 + 42 of them.
    assert len(reached) > 70
    again = draw_histories(cache, 3, 5, 400, 0, np.zeros(400, bool), np.zeros(400))
    assert np.array_equal(again.rows, walks.rows)


def test_palindromes_come_back_the_way_they_went(cache: TrainingCache) -> None:
    way_back = np.random.default_rng(0).random(300)
    walks = draw_histories(cache, 3, 7, 300, 0, np.ones(300, bool), way_back)
    turned = 0
    for i in range(300):
        walk = walks.rows[i, : walks.target[i] + 1]
        out = int(walk.argmax())
        assert walks.recorded[i] == (out == len(walk) - 1)
        if walks.recorded[i]:
            assert out == 3  # nowhere to come back from
            continue
        turned += 1
        back = len(walk) - 1 - out
        assert back >= 4
        there = list(range(walk[0], walk[0] + out + 1))
        assert walk.tolist() == there + there[-2 : -2 - back : -1]
        # All recent frames are on the way back, and the motion is the recorded one undone.
        recent = [int(walks.at(b)[i]) for b in (3, 2, 1, 0)]
        assert recent == list(range(recent[0], recent[0] - 4, -1))
        assert walk[-1] >= walk[0]
    assert turned > 200


def test_shares_are_shares() -> None:
    with pytest.raises(ConfigError):
        MemoryTraining(hide=1.5)
    with pytest.raises(ConfigError):
        MemoryTraining(first_reach=0)


KINDS: dict[str, dict[str, Any]] = {
    "none": {"context": (1, 1)},
    "bank": {"context": (1, 1), "retrieved": (1, 2), "camera": "rays"},
    "cache": {"context": (1, 1), "compressed": 18, "camera": "rays"},
    "recurrent": {"context": (1, 1), "recurrent": 8},
}


def world_of(kind: str, cache: TrainingCache) -> WorldModel:
    """With every zero-initialised parameter set to something."""
    torch.manual_seed(0)
    small = preset("tiny", cache.action_spec, (16, 16))
    changes = KINDS["bank"] | {"memory_attention": "own"} if kind == "own" else KINDS[kind]
    world = WorldModel(replace(small, cdit=replace(small.cdit, depth=2, **changes)))
    for parameter in world.parameters():
        if not bool(parameter.any()):
            torch.nn.init.normal_(parameter, std=0.05)
    return world


@pytest.mark.parametrize("kind", KINDS)
def test_every_memory_trains_and_imagines(kind: str, cache: TrainingCache) -> None:
    """Gradients reach all that the memory is made of, and an imagined step depends on what was seen long ago."""
    world = world_of(kind, cache)
    latents = np.random.default_rng(0).normal(size=(sum(LENGTHS), *world.config.latent_shape)).astype(np.float16)
    stage = DynamicsStage(world, cache, latents, StageConfig(steps=10, batch_size=16), MemoryTraining(), 0)
    torch.stack(list(stage.loss(3).values())).sum().backward()
    without = [n for n, p in stage.module.named_parameters() if p.grad is None or not bool(p.grad.any())]
    assert without == []
    once, again = (torch.stack(list(stage.loss(3).values())).tolist() for _ in range(2))
    assert once == again

    world.eval().requires_grad_(False)
    rng = np.random.default_rng(1)
    frames = rng.integers(0, 256, (2, 12, 16, 16, 3), dtype=np.uint8)
    frames[1, 8:] = frames[0, 8:]  # two worlds that differ in what they saw some time ago
    poses = np.zeros((2, 12, 5))
    poses[:, 2:10, 0] = 900  # far away; then back to where it began
    state = world.observe(world.start(2, [5, 5]), frames, np.zeros((2, 12), np.int64), poses)
    _, step = world.imagine(state, [0, 0])
    difference = float((step.latents[0] - step.latents[1]).abs().max())
    assert difference < 1e-6 if kind == "none" else difference > 1e-5, difference
    halves = world.start(2, [5, 5])
    for part in (slice(0, 5), slice(5, 12)):
        halves = world.observe(halves, frames[:, part], np.zeros((2, 12), np.int64)[:, part], poses[:, part])
    _, after = world.imagine(halves, [0, 0])
    torch.testing.assert_close(step.latents, after.latents, atol=1e-5, rtol=1e-5)
    restored = type(state).restore(state.snapshot())
    _, after = world.imagine(restored[[1]], [0])
    torch.testing.assert_close(after.latents, step.latents[1:], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", [*KINDS, "own"])
def test_no_frame_from_the_target_on_reaches_its_context(kind: str, cache: TrainingCache) -> None:
    """Poison: whatever is read of the target's time or later makes the context NaN, and nothing does."""
    world = world_of(kind, cache)
    shape = (sum(LENGTHS), *world.config.latent_shape)
    latents = np.random.default_rng(0).normal(size=shape).astype(np.float16)
    memory, works = MemoryTraining(palindromes=0, first_reach=100), 0
    for step in range(30):
        stage = DynamicsStage(world, cache, latents.copy(), StageConfig(steps=10, batch_size=1), memory, 0)
        none = np.zeros(1, bool)
        walks = draw_histories(cache, world.config.context, step, 1, 0, none, np.zeros(1))
        aim = int(walks.at(0)[0])
        arrived = torch.from_numpy(cache.poses[[aim]])
        chance = Chance.of(0, step, 1, world.device)
        clean = stage._context(walks, arrived, step, chance)
        stage._latents[aim:] = np.nan
        poisoned = stage._context(walks, arrived, step, chance)
        for name in ("keys", "values", "memory_keys", "memory_values"):
            for a, b in zip(getattr(clean, name), getattr(poisoned, name), strict=True):
                assert torch.equal(a, b), (name, step)
        assert torch.equal(clean.mask, poisoned.mask) and torch.equal(clean.last, poisoned.last)
        stage._latents[aim - 1] = np.nan
        works += not bool(stage._context(walks, arrived, step, chance).last.isfinite().all())
    # One frame earlier the poison is seen, but where the recent frames are hidden.
    assert works >= 10


def test_a_sequence_through_the_convlstm_is_the_equations_of_its_paper() -> None:
    torch.manual_seed(0)
    cell = ConvLSTM(3, 4)
    x, motion = torch.randn(5, 1, 3, 4, 6), torch.randn(5, 1, 13)
    state = cell.start(x[0])
    h = c = torch.zeros(1, 4, 4, 6)
    for t in range(5):
        state = cell(state, x[t], motion[t])
        a = torch.nn.functional.conv2d(torch.cat([x[t], h], 1), cell.look.weight, cell.look.bias, padding=1)
        a = a + (cell.motion.weight @ motion[t][0] + cell.motion.bias).view(1, -1, 1, 1)
        i, f, o, g = a[:, :4].sigmoid(), a[:, 4:8].sigmoid(), a[:, 8:12].sigmoid(), a[:, 12:].tanh()
        c = f * c + i * g
        h = o * c.tanh()
    torch.testing.assert_close(state[0], h)
    torch.testing.assert_close(state[1], c)


def test_steps_take_turns_with_packings(cache: TrainingCache) -> None:
    small = preset("tiny", cache.action_spec, (16, 16))
    cdit = replace(small.cdit, depth=1, context=(2, 2, 2, 1), retrieved=(1, 2, 2, 2, 2, 2), rates=(1, 2, 4))
    world = WorldModel(replace(small, cdit=cdit))
    latents = np.zeros((sum(LENGTHS), *world.config.latent_shape), np.float16)
    names = ("tiny", "raw", "retrieval-only")
    stage = DynamicsStage(world, cache, latents, StageConfig(10, 4), MemoryTraining(), 0, names)
    for step in range(6):
        stage.loss(step)
        packing = packing_named(names[step % 3])
        assert (world.config.cdit.context, world.config.cdit.retrieved) == (packing.recent, packing.retrieved)
        assert set(world.cdit.context_in) == {"1", "2", "4"}
