"""The benchmark of planning runs on a small world and counts what it says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from worldloop.benchmarks import planning
from worldloop.world_models.actions import ActionSpec
from worldloop.world_models.config import preset
from worldloop.world_models.perception.state_encoder import StateConfig
from worldloop.world_models.storage import save_world
from worldloop.world_models.world_model import WorldModel

SPEC = ActionSpec("discrete", ("stay", "walk", "turn"), ((0, 0, 0, 0, 0), (25, 0, 0, 0, 0), (0, 0, 0, 0.4, 0)))


def test_rates_count_plans_and_candidate_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    shape = preset("nano", SPEC, (24, 32))
    cdit = replace(shape.cdit, depth=1, width=32, patch=1, context=(2, 1), retrieved=(1, 2))
    small = replace(shape, cdit=cdit, state=StateConfig(width=16, rounds=1, hidden=24))
    save_world(WorldModel(small), tmp_path, {})

    def two_seconds(works: dict[str, Callable[[], None]], repeats: int, seconds: float) -> dict[str, list[float]]:
        """For every round of plans, whatever the machine does."""
        for work in works.values():
            work()
        return {name: [2.0] for name in works}

    monkeypatch.setattr(planning, "take_turns", two_seconds)
    told: list[str] = []
    config = planning.PlanningBenchmark(
        world=str(tmp_path), frames=40, horizon=3, candidates=6, iterations=2, elites=2, worlds=(2,), many=4,
        problems=1, out=tmp_path / "planning.json",
    )  # fmt: skip
    data = planning.run(config, told.append)
    for way in ("video", "state"):
        rate = data["rates"][f"{way}, 2"]
        assert rate["plans"]["median"] == 1 and rate["candidate_steps"]["median"] == 2 * 6 * 2 * 3 / 2
        # Plans that begin alike are imagined once; the best is imagined again.
        assert 0 < rate["imagined"] <= 1 + 1 / (6 * 2)
        assert data["peak"][way]["added_mb"] >= 0
    assert (tmp_path / "planning.json").exists() and any("candidate steps" in line for line in told)
    past = planning.started(planning.load_world(tmp_path), 3, config)
    assert past.memory is not None and past.memory.lengths.tolist() == [40 + 2] * 3
