"""Sensitivity of a memory to noise and to the widths of its score, held against single return tests."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from worldloop.envs.doom_rooms.env import DoomRoomsEnv
from worldloop.errors import ConfigError
from worldloop.evaluation import ReturnConfig, SensitivityConfig, return_test, sensitivity
from worldloop.world_models.config import preset
from worldloop.world_models.world_model import WorldModel

ONE = {"maps": 1, "types": ("ABCA",), "radii": (15,)}
CONFIG = SensitivityConfig(**ONE, noise_steps=(0.0, 0.5), noise_degrees=(10.0,), factors=(1.0, 0.01))  # type: ignore[arg-type]


def world_with_memory() -> WorldModel:
    torch.manual_seed(0)
    shape = preset("tiny", DoomRoomsEnv().action_spec)
    world = WorldModel(replace(shape, cdit=replace(shape.cdit, depth=1, retrieved=(2, 2), camera="rays")))
    for parameter in world.parameters():
        if not bool(parameter.any()):
            torch.nn.init.normal_(parameter, std=0.1)
    return world.eval().requires_grad_(False)


def test_every_point_is_what_a_return_test_of_its_own_finds(tmp_path: Path) -> None:
    world = world_with_memory()
    before = world.config
    report = sensitivity(world, CONFIG, tmp_path)
    assert world.config == before
    found = {(p.axis, p.value): p.psnr.estimate for p in report.points}
    assert len(found) == len(report.points) == 2 + 1 + 2 + 2

    def alone(retrieval: str = "worldpack", steps: float = 0.0, degrees: float = 0.0) -> float:
        world.use(before.with_overrides(retrieval=retrieval))
        config = ReturnConfig(**ONE, poses="true", noise_steps=steps, noise_degrees=degrees, pictures=0)  # type: ignore[arg-type]
        scores = return_test({"world": world}, config, tmp_path / "return").scores
        (score,) = (s for s in scores if (s.type, s.measure, s.source.name) == ("all", "psnr", "world"))
        return score.last_third.estimate

    usual = alone()
    for point in (("position noise", 0.0), ("sigma along", 1.0), ("sigma across", 1.0)):
        assert found[point] == usual
    assert found["position noise", 50.0] == alone(steps=0.5) != usual
    assert found["heading noise", 10.0] == alone(degrees=10.0) != usual
    assert found["sigma along", 0.01] == alone("worldpack:sigma_along=1.6")
    assert found["sigma across", 0.01] == alone("worldpack:sigma_across=0.8")
    assert {found["sigma along", 0.01], found["sigma across", 0.01]} != {usual}
    assert report.forgetful.estimate == alone("none") != usual

    written = json.loads((tmp_path / "sensitivity.json").read_text())
    assert written["forgetful"]["estimate"] == report.forgetful.estimate and written["paths"] == 1
    assert (tmp_path / "sensitivity.png").exists()
    assert "position noise" in str(report) and "nothing retrieved" in str(report)


def test_what_makes_no_test_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="this one does not"):
        sensitivity(WorldModel(preset("tiny", DoomRoomsEnv().action_spec)), CONFIG, tmp_path)
    for wrong in ({"noise_steps": ()}, {"noise_degrees": (-1.0,)}, {"factors": (0.0,)}, {"maps": 0}):
        with pytest.raises(ConfigError):
            SensitivityConfig(**wrong)  # type: ignore[arg-type]
