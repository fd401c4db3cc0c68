"""The endurance run, cut short: it counts what it must, and a fresh process sees the same future."""

from __future__ import annotations

import json
from pathlib import Path

from worldloop.benchmarks.endurance import Endurance, run


def test_a_short_run_tells_everything_and_its_future_is_the_same_elsewhere(tmp_path: Path) -> None:
    config = Endurance(steps=1600, num_envs=4, horizon=60, capacity=64, samples=8, threads=1, out=tmp_path / "e.json")
    run(config, lambda line: None)
    data = json.loads((tmp_path / "e.json").read_text())
    assert data["same_future_in_a_fresh_process"] is True
    assert [s["steps"] for s in data["samples"]] == [200 * i for i in range(1, 9)]
    assert all(s["resident_mb"] > 50 and s["pages"] > 0 for s in data["samples"])
    assert data["bars"]["pages at the end over those at half time"]["met"]
