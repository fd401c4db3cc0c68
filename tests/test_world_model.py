"""The learned world, untrained: contracts that hold whatever its parameters are."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor

from worldloop.errors import ConfigError, WorldFormatError
from worldloop.world_models.actions import ActionSpec
from worldloop.world_models.config import WorldConfig, preset
from worldloop.world_models.pretrained import load_world
from worldloop.world_models.state import WorldState
from worldloop.world_models.storage import save_world, share_part
from worldloop.world_models.world_model import WorldModel

TURN = math.pi / 8
SPEC = ActionSpec(
    "discrete",
    ("noop", "forward", "back", "left", "right", "turn left", "turn right"),
    (
        (0, 0, 0, 0, 0), (25, 0, 0, 0, 0), (-25, 0, 0, 0, 0), (0, 25, 0, 0, 0), (0, -25, 0, 0, 0),
        (0, 0, 0, TURN, 0), (0, 0, 0, -TURN, 0),
    ),
)  # fmt: skip


@pytest.fixture(scope="module")
def world() -> WorldModel:
    torch.manual_seed(0)
    world = WorldModel(preset("tiny", SPEC)).eval().requires_grad_(False)
    # Zero-initialised outputs would hide every dependence.
    for parameter in world.parameters():
        if not parameter.any():
            parameter.normal_(std=0.05)
    return world


def seen(world: WorldModel, batch: int, frames: int = 4) -> WorldState:
    generator = torch.Generator().manual_seed(1)
    pictures = torch.randint(0, 256, (batch, frames, 48, 64, 3), dtype=torch.uint8, generator=generator)
    poses = torch.rand(batch, frames, 5, dtype=torch.float64, generator=generator)
    actions = torch.zeros(batch, frames, dtype=torch.int64)
    return world.observe(world.start(batch), pictures, actions, poses)


def rollout(world: WorldModel, state: WorldState, steps: int) -> tuple[WorldState, Tensor]:
    latents = []
    for i in range(steps):
        state, step = world.imagine(state, torch.full((state.batch_size,), 1 + i % 6))
        latents.append(step.latents)
    return state, torch.stack(latents, 1)


def test_a_world_in_a_batch_of_16_equals_that_world_alone(world: WorldModel) -> None:
    state = seen(world, 16)
    together = rollout(world, state, 3)[1]
    alone = rollout(world, state[7], 3)[1]
    # Matrix kernels choose their blocking by batch size, so sums are rounded in another order.
    torch.testing.assert_close(alone[0], together[7], atol=2e-4, rtol=1e-4)


def test_forks_share_the_future_until_actions_or_seeds_differ(world: WorldModel) -> None:
    state = seen(world, 2).fork(2)
    same = rollout(world, state, 2)[1]
    torch.testing.assert_close(same[0], same[1])
    _, step = world.imagine(state, torch.tensor([1, 5, 1, 1]))
    assert not torch.allclose(step.latents[0], step.latents[1])
    _, other = world.imagine(state.with_seeds(torch.tensor([0, 9, 1, 1])), torch.ones(4, dtype=torch.int64))
    assert not torch.allclose(other.latents[0], other.latents[1])


def test_a_snapshot_continues_bit_for_bit(world: WorldModel) -> None:
    state = rollout(world, seen(world, 2), 2)[0]
    again = WorldState.restore(state.snapshot())
    assert torch.equal(rollout(world, state, 2)[1], rollout(world, again, 2)[1])


def test_damaged_snapshots_are_refused(world: WorldModel) -> None:
    data = seen(world, 1).snapshot()
    for damaged in (b"", data[:100], data[:-8], b"x" * 64):
        with pytest.raises(WorldFormatError):
            WorldState.restore(damaged)


def test_observing_piecewise_equals_observing_at_once(world: WorldModel) -> None:
    generator = torch.Generator().manual_seed(2)
    frames = torch.randint(0, 256, (1, 6, 48, 64, 3), dtype=torch.uint8, generator=generator)
    poses = torch.rand(1, 6, 5, dtype=torch.float64, generator=generator)
    actions = torch.zeros(1, 6, dtype=torch.int64)
    whole = world.observe(world.start(1), frames, actions, poses)
    state = world.start(1)
    for i in range(6):
        state = world.observe(state, frames[:, i : i + 1], actions[:, i : i + 1], poses[:, i : i + 1])
    assert torch.equal(whole.valid, state.valid) and torch.equal(whole.step, state.step)
    torch.testing.assert_close(whole.latents, state.latents, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(whole.motions, state.motions)


def test_a_given_pose_replaces_the_predicted_one(world: WorldModel) -> None:
    pose = torch.tensor([[3.0, 4.0, 41.0, 0.5, 0.0]], dtype=torch.float64)
    state, step = world.imagine(seen(world, 1), [1], pose)
    assert torch.equal(step.pose, pose) and torch.equal(state.pose, pose)


def test_frames_that_do_not_exist_are_not_looked_at(world: WorldModel) -> None:
    state = seen(world, 1, frames=1)
    assert state.valid.tolist() == [[False, False, False, True]]
    state.latents[:, :3] = 1e3
    _, step = world.imagine(state, [1])
    state.latents[:, :3] = 0
    torch.testing.assert_close(step.latents, world.imagine(state, [1])[1].latents)


def test_shapes_and_types_of_a_step(world: WorldModel) -> None:
    _, step = world.imagine(seen(world, 3), [0, 1, 6])
    assert step.latents.shape == (3, 16, 6, 8) and step.pose.shape == (3, 5)
    assert step.reward.shape == step.continues.shape == step.uncertainty.shape == (3,)
    assert step.pose.dtype == torch.float64 and bool((step.continues >= 0).all() & (step.continues <= 1).all())
    picture = world.render(step.latents)
    assert picture.shape == (3, 48, 64, 3) and picture.dtype == torch.uint8


def test_bad_input_is_refused_in_a_sentence(world: WorldModel) -> None:
    state = seen(world, 2)
    with pytest.raises(ValueError, match="0 … 6"):
        world.imagine(state, [0, 7])
    with pytest.raises(ValueError, match="shape"):
        world.imagine(state, [0])
    with pytest.raises(ValueError, match="uint8 frames of shape"):
        world.encode(torch.zeros(1, 50, 64, 3, dtype=torch.uint8))
    with pytest.raises(ValueError, match="At least one world"):
        world.start(0)


@pytest.mark.parametrize(
    ("name", "millions"),
    [("tiny", (3, 5)), ("small", (47, 50)), ("base", (190, 197)), ("large", (680, 690)), ("xl", (1000, 1020))],
)
def test_every_preset_constructs_at_the_papers_size(name: str, millions: tuple[int, int]) -> None:
    config = preset(name, SPEC)  # type: ignore[arg-type]
    with torch.device("meta"):
        model = WorldModel(config)
    count = sum(p.numel() for p in model.cdit.parameters())
    # A CDiT block has 27 D² weights: 4 self-attention, 4 cross-attention, 8 MLP, 11 adaLN.
    size = config.cdit
    assert count == pytest.approx(27 * size.width**2 * size.depth, rel=0.08)
    assert millions[0] < count / 1e6 < millions[1]


def test_a_configuration_survives_json() -> None:
    config = preset("small", SPEC, (64, 96))
    assert WorldConfig.from_json(config.to_json()) == config
    with pytest.raises(ConfigError, match="multiple of 8"):
        preset("tiny", SPEC, (50, 64))


def test_worlds_beside_each_other_share_a_part(world: WorldModel, tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    save_world(world, one, {})
    save_world(world, other, {"kept": 1})
    whole, size = load_world(other), (other / "weights.safetensors").stat().st_size
    with pytest.raises(WorldFormatError, match="do not have the same nothing"):
        share_part(other, "nothing", "one")
    share_part(other, "autoencoder", "one")
    halves = sum(p.numel() * 2 for p in world.autoencoder.state_dict().values())
    assert size - (other / "weights.safetensors").stat().st_size > 0.95 * halves
    again = load_world(other)
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in whole.state_dict().items())
    assert again.origin == whole.origin and json.loads((other / "world.json").read_text())["about"] == {"kept": 1}
    shutil.rmtree(one)
    with pytest.raises(WorldFormatError, match=r"one.weights\.safetensors is missing"):
        load_world(other)
    torch.nn.init.normal_(world.autoencoder.latent_mean)
    save_world(world, one, {})
    save_world(whole, tmp_path / "third", {})
    with pytest.raises(WorldFormatError, match="do not have the same autoencoder"):
        share_part(tmp_path / "third", "autoencoder", "one")
    with pytest.raises(WorldFormatError, match="one beside it"):
        share_part(tmp_path / "third", "autoencoder", "../elsewhere")


def test_a_saved_world_imagines_the_same(world: WorldModel, tmp_path: Path) -> None:
    directory = tmp_path / "world"
    save_world(world, directory, {"seed": 0}, dtype=torch.float32)
    again = load_world(directory)
    assert torch.equal(rollout(world, seen(world, 1), 2)[1], rollout(again, seen(again, 1), 2)[1])
    assert load_world(directory, denoising_steps=1).config.denoising_steps == 1
    with pytest.raises(ConfigError, match="override"):
        load_world(directory, nonsense=1)
    weights = directory / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(WorldFormatError, match="damaged or cut short"):
        load_world(directory)
    with pytest.raises(WorldFormatError, match="Unknown world"):
        load_world("no-such-world")
