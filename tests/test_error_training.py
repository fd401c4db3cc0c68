"""Training of the error head: a world whose errors are known is known to be wrong where it is."""

from __future__ import annotations

import math
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
from worldloop.world_models.evidence import CLUES, evidence
from worldloop.world_models.state import WorldState
from worldloop.world_models.training import error
from worldloop.world_models.training.config import StageConfig
from worldloop.world_models.training.error import ErrorStage, Samples
from worldloop.world_models.training.fit import fit
from worldloop.world_models.training.train import train
from worldloop.world_models.world import ImaginedStep
from worldloop.world_models.world_model import WorldModel


@pytest.fixture(autouse=True)
def few_walks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(error, "WALKS", 4)


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


STAGE = StageConfig(steps=300, batch_size=128, learning_rate=3e-3, warmup=20, ema=0.9)


def test_what_is_learned_is_the_error_in_units_of_the_episodes_variance(
    cache: TrainingCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, latents = small(cache)
    drawn: list[torch.Tensor] = []
    imagine = world.imagine

    def watched(*arguments: object) -> tuple[WorldState, ImaginedStep]:
        after, step = imagine(*arguments)
        drawn.append(step.latents)
        return after, step

    monkeypatch.setattr(world, "imagine", watched)
    stage = ErrorStage(world, cache, latents, STAGE, seed=0)
    first, again = stage.imagine(3), ErrorStage(world, cache, latents, STAGE, seed=0).imagine(3)
    assert torch.equal(first.clues, again.clues) and torch.equal(first.error, again.error)
    assert not torch.equal(first.error, stage.imagine(4).error)
    # Which of the recorded frames was meant is not told, but one of the 160 must have exactly this error.
    pictures = torch.cat(drawn).numpy().astype(np.float64)
    for row in (0, 17, 40):
        found = []
        for episode in latents.reshape(4, 40, -1).astype(np.float64):
            mean = ((episode - episode.mean(0)) ** 2).mean()
            found += list(((episode - pictures[row].reshape(-1)) ** 2).mean(1) / mean)
        assert np.abs(np.array(found) / float(first.error[row]) - 1).min() < 1e-4


def test_the_head_ranks_frames_by_errors_it_can_know_of_and_gives_their_mean(
    cache: TrainingCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Errors are made up: one of the clues is the logarithm of their mean; the rest of an error is chance."""
    world, latents = small(cache)
    stage = ErrorStage(world, cache, latents, STAGE, seed=0)

    def invented(number: int) -> Samples:
        generator = torch.Generator().manual_seed(number)
        n = 256
        clues = torch.randn(n, 11, generator=generator)
        chance = -torch.rand(n, generator=generator).clamp(min=1e-6).log()
        return Samples(clues, clues[:, 4].exp() * chance)

    monkeypatch.setattr(stage, "imagine", invented)
    average, finished = fit(stage, STAGE, tmp_path / "error.safetensors", "a run")
    assert finished
    assert world.error_head is not None
    world.error_head.load_state_dict(average)
    held_out = invented(10_000)
    with torch.no_grad():
        told = world.error_head(held_out.clues).exp()
    true = held_out.clues[:, 4].exp()
    assert float((told.log() - true.log()).abs().mean()) < 0.35
    order = held_out.clues[:, 4].argsort()
    surest, least_sure = told[order[:64]], told[order[-64:]]
    assert float((least_sure[:, None] > surest).float().mean()) > 0.97
    # Of exponential chance the mean is 1 and the median 0.69: what is foretold is the mean.
    assert float((held_out.error / told).mean()) == pytest.approx(1.0, abs=0.2)


def test_clues_tell_how_far_reality_is(cache: TrainingCache) -> None:
    world, _ = small(cache)
    frames, actions, poses = (array[None, :10] for array in (cache.frames, cache.actions, cache.poses))
    state = world.observe(world.start(1), np.array(frames), np.array(actions), np.array(poses))
    shares = []

    def away(pose: np.ndarray) -> float:
        """All recorded poses are at the origin and differ in yaw alone."""
        angles = np.abs((poses[0, :, 3] - pose[3] + math.pi) % (2 * math.pi) - math.pi)
        return float(np.hypot(pose[0] / 80, angles / (math.pi / 4)).min())

    for t in range(10, 24):
        turn = world.actions.step_angle
        there = state.pose.numpy() + np.array([25.0, 0, 0, turn, 0])
        after, step = world.imagine(state, [0], there)
        clues = evidence(state, step, 25.0, turn)[0].tolist()
        assert len(clues) == CLUES
        assert clues[0] == pytest.approx(math.log(max(float(step.uncertainty), 1e-3)) + 2, abs=1e-4)
        assert clues[1:3] == pytest.approx([1.0, 1.0], abs=1e-4)
        assert clues[3] == pytest.approx(math.log1p(min(10, away(there[0]))), abs=1e-4)
        assert clues[4] == pytest.approx(math.log1p(min(10, away(state.pose[0].numpy()))), abs=1e-4)
        assert clues[5:7] == pytest.approx([math.log1p(t - 9) / 2, math.log1p(10) / 4], abs=1e-4)
        given = [time for time in step.retrieved_times[0].tolist() if time >= 0]
        assert clues[7] == pytest.approx(len(given) / 2)
        shares.append(sum(time >= 10 for time in given) / len(given))
        assert clues[8] == pytest.approx(shares[-1])
        assert clues[10] == pytest.approx(np.mean([math.log1p(t - time) for time in given]) / 4, abs=1e-4)
        state = after
    assert shares[0] == 0 and max(shares) > 0, "in the end memory gives imagined frames too"


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


@pytest.mark.slow
def test_a_finished_run_learns_it_afterwards_and_keeps_everything_else(data: Path, tmp_path: Path) -> None:  # noqa: F811
    run = replace(config(data, tmp_path / "run", steps=2), validation=None, state=StageConfig(steps=0))
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
