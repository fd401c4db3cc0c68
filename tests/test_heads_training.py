"""Training of the heads: where an action leads, and what that is worth."""

from __future__ import annotations

from dataclasses import replace
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
from worldloop.world_models.training.heads import HeadsStage, resample, stopped_again
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


@pytest.mark.parametrize("ways", [1, 2])
def test_who_was_stopped_stays_stopped_and_is_rewarded(ways: int, cache: TrainingCache, tmp_path: Path) -> None:
    torch.manual_seed(0)
    world = WorldModel(replace(preset("tiny", SPEC, (16, 16)), ways=ways))
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
        rewards, logits = world.outcome_head(last, last, world.magnitudes(forward + deviation))
        rewarded = rewards.mean(1)
        motions, chances = world.motion_ways(last, deviation, forward)
    if ways == 2:
        # Who goes freely may be stopped in any step, as often as walkers in the data were.
        x = cache.poses[:, 0].reshape(60, LENGTH)
        went = np.diff(x, axis=1) > 0
        share = (went[:, :-1] & ~went[:, 1:]).sum() / went[:, :-1].sum()
        goes, stops = (motions[1, :, 0] + 1).tolist()
        assert abs(goes - 1) < 0.1 and abs(stops) < 0.1, (goes, stops)
        assert float(chances[1, 1].exp()) == pytest.approx(share, abs=0.03), share
    assert chances.shape == (2, ways) and torch.allclose(chances.exp().sum(1), torch.ones(2))
    assert abs(stopped) < 3 and abs(free - 25) < 3, (stopped, free)
    assert float(rewarded[0]) > 0.7 and float(rewarded[1]) < 0.3, rewarded
    # A presets' four members each learned it, from data of their own.
    assert rewards.shape == logits.shape == (2, 4) and float(rewards[0].min()) > 0.5 > float(rewards[1].max()), rewards
    assert bool((rewards.std(1) > 0).all())
    assert all(torch.equal(p, dict(world.named_parameters())[name]) for name, p in before.items())


def test_how_often_who_was_stopped_is_stopped_again_is_counted(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    writer = DatasetWriter.create(tmp_path / "train", DatasetInfo("walls", {}, (16, 16), SPEC, "train"))
    stopped, again = 0, 0
    for seed in range(24):
        keys = rng.integers(0, 2, LENGTH)
        blocked = np.zeros(LENGTH, bool)
        for t in range(1, LENGTH):
            # Three in four who were stopped stay so, one in five others is.
            tried_in_vain = t > 1 and keys[t - 1] == 1 and blocked[t - 1]
            blocked[t] = rng.random() < (0.75 if tried_in_vain else 0.2)
            if tried_in_vain and keys[t] == 1:
                stopped, again = stopped + 1, again + int(blocked[t])
        poses = np.zeros((LENGTH, 5))
        poses[:, 3] = 0.7  # whichever way they look
        steps = np.where((keys == 1) & ~blocked, 25, 0)
        steps[0] = 0  # keys[0] led to no frame: who seems stopped by it was not
        poses[:, :2] = np.cumsum(steps)[:, None] * [np.cos(0.7), np.sin(0.7)]
        no = np.zeros(LENGTH, bool)
        frames = np.zeros((LENGTH, 16, 16, 3), np.uint8)
        writer.add(Episode(frames, keys, poses, np.zeros(LENGTH, np.float32), no, no, no, no, seed))
    cache = TrainingCache.of(open_dataset(tmp_path / "train"))
    assert stopped > 30 and again < stopped
    assert stopped_again(cache) == again / (stopped + 1)


def test_recordings_without_anyone_stopped_leave_it_to_the_picture(tmp_path: Path) -> None:
    writer = DatasetWriter.create(tmp_path / "train", DatasetInfo("walls", {}, (16, 16), SPEC, "train"))
    poses, no = np.zeros((LENGTH, 5)), np.zeros(LENGTH, bool)
    frames = np.zeros((LENGTH, 16, 16, 3), np.uint8)
    writer.add(Episode(frames, np.zeros(LENGTH, np.int64), poses, np.zeros(LENGTH, np.float32), no, no, no, no, 0))
    assert stopped_again(TrainingCache.of(open_dataset(tmp_path / "train"))) == 0


def test_every_member_weighs_whole_episodes_in_its_own_way_and_always_the_same() -> None:
    episodes = np.arange(5000)
    weights = resample(episodes, 4, seed=3).numpy().astype(np.float64)
    # Exponential numbers of mean 1: variance 1, and a share of exp(-1) above the mean.
    assert np.abs(weights.mean(0) - 1).max() < 0.06 and np.abs(weights.var(0) - 1).max() < 0.15
    assert np.abs((weights > 1).mean(0) - np.exp(-1)).max() < 0.03
    assert np.abs(np.corrcoef(weights.T) - np.eye(4)).max() < 0.06
    # In another batch, in another order, seen again: nothing but seed, episode and member counts.
    again = resample(np.array([7, 3, 7]), 4, seed=3).numpy()
    assert np.array_equal(again, weights[[7, 3, 7]].astype(np.float32))
    assert not np.array_equal(resample(np.array([7]), 4, seed=4).numpy(), again[:1])
    assert torch.equal(resample(episodes, 1, seed=3), torch.ones(5000, 1)), "one member sees the data as they are"


def test_the_ensembles_mean_is_the_reward_and_its_spread_an_uncertainty() -> None:
    torch.manual_seed(0)
    shape = replace(preset("tiny", SPEC, (16, 16)), outcome_members=3)
    world = WorldModel(shape).eval().requires_grad_(False)
    for parameter in world.outcome_head.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    frames = np.random.default_rng(0).integers(0, 256, (2, 5, 16, 16, 3), dtype=np.uint8)
    poses = np.zeros((2, 5, 5))
    state = world.observe(world.start(2), frames, np.zeros((2, 5), np.int64), poses)
    _, step = world.imagine(state, [1, 0])

    head = {name: p.double().numpy() for name, p in world.outcome_head.named_parameters()}
    motion = (step.pose - state.pose).numpy()
    magnitudes = world.magnitudes(torch.from_numpy(motion).float()).double()
    x = torch.cat([state.latents[:, -1], step.latents], 1).double()
    for name in ("look", "again"):
        kernel, bias = (torch.from_numpy(head[f"{name}.{part}"]) for part in ("weight", "bias"))
        x = torch.nn.functional.conv2d(x, kernel, bias, padding=1)
        x = x * x.sigmoid()
    features = torch.cat([x.flatten(1), magnitudes], 1).numpy()
    hidden = features @ head["join.weight"].T + head["join.bias"]
    hidden = hidden / (1 + np.exp(-hidden))
    members = [hidden[:, 96 * m : 96 * (m + 1)] @ head["out.weight"][2 * m : 2 * m + 2].T
               + head["out.bias"][2 * m : 2 * m + 2] for m in range(3)]  # fmt: skip
    rewards, logits = (np.stack([member[:, i] for member in members], 1) for i in range(2))
    assert np.allclose(step.reward.numpy(), rewards.mean(1), atol=1e-4)
    assert np.allclose(step.continues.numpy(), (1 / (1 + np.exp(-logits))).mean(1), atol=1e-4)
    assert np.allclose(world.reward_spread(state, step).numpy(), np.std(rewards, 1), atol=1e-4)
    assert float(world.reward_spread(state, step).min()) > 0.01
