"""Training goes on from worlds: the first gives what fits, the others the parts it lacks."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from worldloop.errors import ConfigError
from worldloop.world_models.actions import ActionSpec
from worldloop.world_models.config import preset
from worldloop.world_models.perception.state_encoder import StateConfig
from worldloop.world_models.training.train import begin_from
from worldloop.world_models.world_model import WorldModel

SPEC = ActionSpec("discrete", ("stay", "walk"), ((0, 0, 0, 0, 0), (25, 0, 0, 0, 0)))


def made(seed: int, width: int = 32, state: bool = False, error: bool = False, eyes: WorldModel | None = None):
    torch.manual_seed(seed)
    shape = preset("tiny", SPEC, (24, 32))
    small = StateConfig(width=16, rounds=1, hidden=24) if state else None
    cdit = replace(shape.cdit, depth=1, width=width, heads=2)
    world = WorldModel(replace(shape, cdit=cdit, state=small, error_head=error)).eval().requires_grad_(False)
    if eyes is not None:
        world.autoencoder.load_state_dict(eyes.autoencoder.state_dict())
    return world


def same(one: WorldModel, other: WorldModel, part: str) -> bool:
    mine, theirs = (getattr(world, part).state_dict() for world in (one, other))
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_the_first_world_gives_all_that_fits() -> None:
    base, world, wider = made(0), made(1), made(2, width=64)
    before = wider.cdit.state_dict()["blocks.0.self_qkv.weight"].clone()
    begin_from(world, [base])
    begin_from(wider, [base])
    for part in ("autoencoder", "cdit", "pose_head", "outcome_head"):
        assert same(world, base, part)
        assert same(wider, base, part) == (part != "cdit")
    assert torch.equal(wider.cdit.state_dict()["blocks.0.self_qkv.weight"], before)


def test_others_give_only_parts_that_it_lacks() -> None:
    base = made(0, width=64)
    state, error = made(1, state=True, eyes=base), made(2, state=True, error=True, eyes=base)
    world = made(3, width=64, state=True, error=True)
    begin_from(world, [base, state, error])
    for part in ("autoencoder", "cdit", "pose_head", "outcome_head"):
        assert same(world, base, part)
    assert same(world, state, "state_space") and same(world, error, "error_head")
    assert not same(world, state, "pose_head") and not same(world, error, "state_space")


def test_worlds_that_see_otherwise_are_refused() -> None:
    world = made(3)
    with pytest.raises(ConfigError, match="autoencoder of number 2 differs"):
        begin_from(world, [made(0), made(1)])
    other = WorldModel(replace(preset("tiny", SPEC, (48, 64)), state=None))
    with pytest.raises(ConfigError, match="its frame size differs"):
        begin_from(world, [other])
