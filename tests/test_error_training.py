"""Training of the error head: a world whose errors are known is known to be wrong where it is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_training import config, data, record  # noqa: F401

from worldloop import load_world
from worldloop.errors import ConfigError
from worldloop.rollouts.cache import TrainingCache
from worldloop.rollouts.store import open_dataset
from worldloop.world_models.config import preset
from worldloop.world_models.training.config import StageConfig
from worldloop.world_models.training.error import ErrorStage, Samples
from worldloop.world_models.training.fit import fit
from worldloop.world_models.training.train import train
from worldloop.world_models.world_model import WorldModel


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> TrainingCache:
    return TrainingCache.of(open_dataset(record(tmp_path_factory.mktemp("data") / "train", "train", range(4))))


def small(cache: TrainingCache) -> tuple[WorldModel, np.ndarray]:
    torch.manual_seed(0)
    shape = replace(preset("tiny", cache.action_spec), error_head=True, state=None)
    world = WorldModel(replace(shape, cdit=replace(shape.cdit, width=32, depth=1, heads=2, retrieved=(1, 2))))
    world.eval().requires_grad_(False)
    # What the frames are encoded as does not matter here; what an untrained encoder makes of them hardly varies.
    latents = np.random.default_rng(0).normal(size=(cache.num_frames, *world.config.latent_shape))
    return world, latents.astype(np.float16)


STAGE = StageConfig(steps=300, batch_size=128, warmup=20, ema=0.9)


def test_what_is_learned_is_the_error_in_units_of_the_episodes_variance(cache: TrainingCache) -> None:
    world, latents = small(cache)
    stage = ErrorStage(world, cache, latents, STAGE, seed=0)
    first, again = stage.imagine(3), ErrorStage(world, cache, latents, STAGE, seed=0).imagine(3)
    parts = ("last", "latents", "clues", "error")
    assert all(torch.equal(getattr(first, part), getattr(again, part)) for part in parts)
    assert not torch.equal(first.latents, stage.imagine(4).latents)
    # Which of the recorded frames was meant is not told, but one of the 160 must have exactly this error.
    for row in (0, 17, 40):
        found = []
        for episode in latents.reshape(4, 40, -1).astype(np.float64):
            mean = ((episode - episode.mean(0)) ** 2).mean()
            found += list(((episode - first.latents[row].numpy().reshape(-1)) ** 2).mean(1) / mean)
        assert np.abs(np.array(found) / float(first.error[row]) - 1).min() < 1e-4


def test_the_head_ranks_frames_by_errors_it_can_know_of_and_gives_their_mean(
    cache: TrainingCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Errors are made up: of mean 3 where a clue says so, else of mean 0.5; the rest of an error is chance."""
    world, latents = small(cache)
    stage = ErrorStage(world, cache, latents, STAGE, seed=0)

    def invented(number: int) -> Samples:
        generator = torch.Generator().manual_seed(number)
        n = 256
        clues = torch.randn(n, 11, generator=generator)
        mean = torch.where(clues[:, 4] > 0, 3.0, 0.5)
        chance = -torch.rand(n, generator=generator).clamp(min=1e-6).log()
        picture = torch.randn(n, *world.config.latent_shape, generator=generator)
        return Samples(picture, picture.flip(0), clues, mean * chance)

    monkeypatch.setattr(stage, "imagine", invented)
    average, finished = fit(stage, STAGE, tmp_path / "error.safetensors", "a run")
    assert finished
    assert world.error_head is not None
    world.error_head.load_state_dict(average)
    held_out = invented(10_000)
    with torch.no_grad():
        told = world.error_head(held_out.last, held_out.latents, held_out.clues).exp()
    bad = held_out.clues[:, 4] > 0
    assert float((told[bad][:, None] > told[~bad][None]).float().mean()) > 0.9
    assert float(told[bad].mean()) == pytest.approx(3.0, rel=0.25)
    assert float(told[~bad].mean()) == pytest.approx(0.5, rel=0.25)


def test_a_loss_depends_on_its_step_alone(cache: TrainingCache) -> None:
    world, latents = small(cache)
    stage = ErrorStage(world, cache, latents, STAGE, seed=0)
    later = float(stage.loss(50)["error"].detach())
    stage.loss(0)
    fresh = float(ErrorStage(world, cache, latents, STAGE, seed=0).loss(50)["error"].detach())
    assert float(stage.loss(50)["error"].detach()) == later == fresh


def test_only_a_world_with_a_head_and_episodes_long_enough_can_learn_it(cache: TrainingCache) -> None:
    world, latents = small(cache)
    with pytest.raises(ConfigError, match="no error head"):
        ErrorStage(WorldModel(replace(world.config, error_head=False)), cache, latents, STAGE, seed=0)


def test_a_finished_run_learns_it_afterwards_and_keeps_everything_else(data: Path, tmp_path: Path) -> None:  # noqa: F811
    run = replace(config(data, tmp_path / "run", steps=2), validation=None)
    train(run)
    plain = load_world(tmp_path / "run" / "world")
    assert plain.error_head is None
    judged = replace(run, error=StageConfig(steps=2, batch_size=4, warmup=1))
    train(judged)
    world = load_world(tmp_path / "run" / "world")
    assert world.error_head is not None
    kept = dict(world.state_dict())
    assert all(torch.equal(value, kept[name]) for name, value in plain.state_dict().items())
    with pytest.raises(ConfigError, match="another configuration"):
        train(replace(judged, error=StageConfig(steps=3, batch_size=4, warmup=1)))
