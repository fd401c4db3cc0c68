"""Training: the same curve whether interrupted or not, and clear refusals."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from worldloop import load_world
from worldloop.errors import ConfigError, DataError, WorldFormatError
from worldloop.rollouts.cache import TrainingCache
from worldloop.rollouts.episode import Episode
from worldloop.rollouts.metadata import DatasetInfo
from worldloop.rollouts.splits import Split
from worldloop.rollouts.store import DatasetWriter, open_dataset
from worldloop.world_models.actions import ActionSpec
from worldloop.world_models.perception.autoencoder import to_pictures
from worldloop.world_models.training.autoencoder import encode_cache
from worldloop.world_models.training.config import StageConfig, TrainConfig, Trained
from worldloop.world_models.training.fit import Diverged, Progress, learning_rate
from worldloop.world_models.training.train import train

SPEC = ActionSpec("discrete", ("stay", "turn"), ((0, 0, 0, 0, 0), (0, 0, 0, math.pi / 8, 0)))


def record(path: Path, split: Split, seeds: range) -> Path:
    """Panoramas of random blocks, seen while turning."""
    writer = DatasetWriter.create(path, DatasetInfo("panorama", {}, (48, 64), SPEC, split))
    for seed in seeds:
        rng = np.random.default_rng(seed)
        panorama = rng.integers(0, 256, (6, 32, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
        actions = rng.integers(0, 2, 40)
        actions[0] = 0
        yaw = actions.cumsum() * math.pi / 8
        frames = np.stack([np.roll(panorama, round(y / (2 * math.pi) * 256), 1)[:, :64] for y in yaw])
        poses = np.zeros((40, 5))
        poses[:, 3] = (yaw + math.pi) % (2 * math.pi) - math.pi
        no = np.zeros(40, bool)
        writer.add(Episode(frames, actions, poses, np.zeros(40, np.float32), no, no, no, no, seed))
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    record(root / "train", "train", range(4))
    record(root / "validation", "validation", range(100_000, 100_004))
    record(root / "test", "test", range(200_000, 200_002))
    return root


def config(data: Path, out: Path, steps: int = 6) -> TrainConfig:
    stage = StageConfig(steps=steps, batch_size=4, warmup=2)
    return TrainConfig(
        data / "train", out, data / "validation", device="cpu", autoencoder=stage, heads=stage, dynamics=stage,
        state=stage, checkpoint_every=4, validate_every=5,
    )  # fmt: skip


def curve(run: TrainConfig) -> list[tuple[str, int, dict[str, float]]]:
    seen: list[tuple[str, int, dict[str, float]]] = []

    def watch(progress: Progress, scores: object) -> None:
        if progress.losses:
            seen.append((progress.stage, progress.step, progress.losses))

    train(run, "test", watch)
    return seen


def test_an_interrupted_run_gives_the_same_curve_and_world(data: Path, tmp_path: Path) -> None:
    whole = curve(config(data, tmp_path / "whole"))
    parts = []
    for stop in (3, 7, 11, 14, 20, None):
        parts += curve(replace(config(data, tmp_path / "parts"), stop_after=stop))
    assert parts == whole
    first, second = (load_world(tmp_path / name / "world").state_dict() for name in ("whole", "parts"))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_encoding_goes_on_where_it_was_interrupted(data: Path, tmp_path: Path) -> None:
    cache = TrainingCache.of(open_dataset(data / "train"), tmp_path / "cache")
    autoencoder = load_world("doom-rooms-nano").autoencoder
    path, partial = tmp_path / "latents.npy", tmp_path / "latents.npy.partial"
    told: list[tuple[int, int]] = []

    def ctrl_c(done: int, of: int) -> None:
        if done == 96:
            raise KeyboardInterrupt

    partial.write_bytes(b"of another data set")
    with pytest.raises(KeyboardInterrupt):
        encode_cache(autoencoder, cache, path, 32, ctrl_c)
    assert not path.exists()
    with partial.open("ab") as file:
        file.write(b"torn")
    latents = encode_cache(autoencoder, cache, path, 32, lambda done, of: told.append((done, of)))
    assert told == [(128, 160), (160, 160)] and not partial.exists()
    parts = torch.from_numpy(np.array(cache.frames)).split(32)
    whole = torch.cat([autoencoder.encode(to_pictures(part)) for part in parts])
    assert latents.dtype == np.float16 and np.array_equal(latents, whole.half().numpy())
    assert np.array_equal(encode_cache(autoencoder, cache, path, 32, ctrl_c), latents)


def test_a_checkpoint_of_another_configuration_is_refused(data: Path, tmp_path: Path) -> None:
    curve(replace(config(data, tmp_path), stop_after=3))
    with pytest.raises(ConfigError, match="another configuration"):
        curve(replace(config(data, tmp_path), seed=1))


def test_a_damaged_checkpoint_is_named(data: Path, tmp_path: Path) -> None:
    curve(replace(config(data, tmp_path), stop_after=3))
    path = tmp_path / "autoencoder.safetensors"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(WorldFormatError, match=r"autoencoder\.safetensors is damaged"):
        curve(config(data, tmp_path))


def test_test_and_validation_maps_are_never_trained_on(data: Path, tmp_path: Path) -> None:
    for split in ("validation", "test"):
        with pytest.raises(DataError, match=split):
            train(replace(config(data, tmp_path), data=data / split))
    with pytest.raises(DataError, match="test"):
        train(replace(config(data, tmp_path), validation=data / "test"))
    with pytest.raises(DataError, match="collect"):
        train(replace(config(data, tmp_path), data=data / "nowhere"))


def test_divergence_stops_and_keeps_the_last_checkpoint(data: Path, tmp_path: Path) -> None:
    run = config(data, tmp_path, steps=8)
    curve(replace(run, stop_after=4))
    kept = (tmp_path / "autoencoder.safetensors").read_bytes()

    with pytest.raises(Diverged, match="Lower the learning rate"):
        stage = replace(run.autoencoder, learning_rate=1e30, clip=1e30)
        wild = replace(run, out=tmp_path / "wild", autoencoder=stage, checkpoint_every=1000)
        train(wild)
    assert (tmp_path / "autoencoder.safetensors").read_bytes() == kept
    assert not (tmp_path / "wild" / "autoencoder.safetensors").exists()


def test_the_learning_rate_warms_up_and_falls() -> None:
    stage = StageConfig(steps=100, warmup=10, learning_rate=1.0)
    rates = [learning_rate(stage, i) for i in range(100)]
    assert rates[0] == pytest.approx(0.1) and max(rates) == pytest.approx(1.0) and rates[-1] < 0.02
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_all_stages_train_in_half_precision(data: Path, tmp_path: Path) -> None:
    judge = StageConfig(steps=2, batch_size=4, warmup=2)
    run = replace(config(data, tmp_path, 2), precision="bfloat16", error=judge, validation=None)
    losses = curve(run)
    assert len({stage for stage, _, _ in losses}) == 5
    assert all(math.isfinite(value) for _, _, each in losses for value in each.values())
    # It computes otherwise than in full precision, but not far from it.
    exact = curve(replace(run, out=tmp_path / "exact", precision="float32"))
    assert [where[:2] for where in losses] == [where[:2] for where in exact]
    assert losses != exact
    for (_, step, rough), (_, _, fine) in zip(losses, exact, strict=True):
        if step == 1:
            assert rough == pytest.approx(fine, rel=0.1)


@pytest.mark.parametrize("only", ["outcomes", "heads"])
def test_a_world_learns_other_outcomes_and_stays_as_it_is(data: Path, tmp_path: Path, only: Trained) -> None:
    first = replace(config(data, tmp_path / "first", 2), validation=None)
    judge = StageConfig(steps=2, batch_size=4, warmup=2)
    base = load_world(train(replace(first, error=judge)))  # type: ignore[arg-type]
    run = replace(first, out=tmp_path / "other", start_from=(str(tmp_path / "first/world"),), only=only, seed=1)
    world = load_world(train(run))  # type: ignore[arg-type]
    before, after = base.state_dict(), world.state_dict()
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    parts = {".".join(name.split(".")[: 3 if name.startswith("state_space") else 1]) for name in changed}
    outcomes = {"outcome_head", "state_space.head.outcome"}
    # All motions in this data are those asked for, which an untrained pose head foretells already.
    assert parts - {"pose_head"} == (outcomes if only == "outcomes" else outcomes | {"state_space.head.motion"})
    with pytest.raises(ConfigError, match="--start-from"):
        replace(first, only=only)
