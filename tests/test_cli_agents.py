"""`worldloop train-agent` and `worldloop evaluate transfer`, as their users run them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import worldloop


def test_an_agent_is_trained_goes_on_after_a_stop_and_is_tried_in_the_real_world(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = ("train-agent", "--out", tmp_path / "run", "--training.steps", 4, "--training.batch-size", 4)
    worldloop(*train, "--stop-after", 2)
    assert "Stopped as asked" in capsys.readouterr().out and not (tmp_path / "run" / "agent").exists()
    worldloop(*train)
    assert "The agent is in" in capsys.readouterr().out
    worldloop(
        "evaluate", "transfer", "--agents", f"new={tmp_path / 'run' / 'agent'}", "--tasks", "find-near",
        "--episodes", 2, "--max-steps", 6, "--envs", 2, "--out", tmp_path / "transfer",
    )  # fmt: skip
    told = capsys.readouterr().out
    assert "new" in told and "random" in told
    assert [json.loads(path.read_text()) for path in (tmp_path / "transfer").glob("*.json")]


def test_no_agent_and_two_of_one_name_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(AssertionError, match="ended with status 1"):
        worldloop("evaluate", "transfer", "--agents", tmp_path / "nothing")
    assert "error:" in capsys.readouterr().err
