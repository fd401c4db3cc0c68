"""Training of the heads: where an action leads, and what that is worth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from worldloop.rollouts.cache import TrainingCache
from worldloop.rollouts.episode import Episode
from worldloop.rollouts.metadata import DatasetInfo
from worldloop.rollouts.store import DatasetWriter, open_dataset
from worldloop.world_models.actions import ActionSpec
from worldloop.world_models.config import preset
from worldloop.world_models.training.config import StageConfig
from worldloop.world_models.training.fit import fit
from worldloop.world_models.training.heads import HeadsStage
from worldloop.world_models.world_model import WorldModel

LENGTH = 40
SPEC = ActionSpec("discrete", ("stay", "forward"), ((0, 0, 0, 0, 0), (25, 0, 0, 0, 0)))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> TrainingCache:
    """Walkers who hold one key, until a wall that nobody can see stops them for good; there they are rewarded once."""
    path: Path = tmp_path_factory.mktemp("data") / "train"
    writer = DatasetWriter.create(path, DatasetInfo("walls", {}, (16, 16), SPEC, "train"))
    rng = np.random.default_rng(0)
    for seed in range(60):
        wall = int(rng.integers(5, LENGTH - 5))
        poses = np.zeros((LENGTH, 5))
        poses[:, 0] = 25 * np.minimum(np.arange(LENGTH), wall)
        rewards = (np.arange(LENGTH) > wall).astype(np.float32)
        no = np.zeros(LENGTH, bool)
        frames = np.zeros((LENGTH, 16, 16, 3), np.uint8)
        writer.add(Episode(frames, np.ones(LENGTH, np.int64), poses, rewards, no, no, no, no, seed))
    return TrainingCache.of(open_dataset(path))


def test_who_was_stopped_stays_stopped_and_is_rewarded(cache: TrainingCache, tmp_path: Path) -> None:
    torch.manual_seed(0)
    world = WorldModel(preset("tiny", SPEC, (16, 16)))
    latents = np.zeros((60 * LENGTH, *world.config.latent_shape), np.float16)
    last = torch.zeros(2, *world.config.latent_shape)
    forward = torch.tensor([[25.0, 0, 0, 0, 0]]).expand(2, 5)
    deviation = torch.stack([-forward[0], torch.zeros(5)])
    with torch.no_grad():
        untrained = world.predict_motion(last, torch.zeros(2, 5), forward)
    assert torch.equal(untrained, forward)

    config = StageConfig(steps=300, batch_size=64, warmup=20, ema=0.9)
    stage = HeadsStage(world, cache, latents, config, seed=0)
    once, again = (torch.stack(list(stage.loss(7).values())).tolist() for _ in range(2))
    assert once == again
    before = {name: p.clone() for name, p in world.named_parameters() if "head" not in name}
    average, finished = fit(stage, config, tmp_path / "heads.safetensors", "a run")
    assert finished
    world.load_state_dict(average, strict=False)
    with torch.no_grad():
        stopped, free = world.predict_motion(last, deviation, forward)[:, 0].tolist()
        rewarded, _ = world.outcome_head(last, last, world.magnitudes(forward + deviation))
    assert abs(stopped) < 3 and abs(free - 25) < 3, (stopped, free)
    assert float(rewarded[0]) > 0.7 and float(rewarded[1]) < 0.3, rewarded
    assert all(torch.equal(p, dict(world.named_parameters())[name]) for name, p in before.items())
