"""`worldloop train-agent` and `worldloop evaluate transfer`, as their users run them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import worldloop


def test_an_agent_is_trained_goes_on_after_a_stop_and_is_tried_in_the_real_world(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = ("train-agent", "--out", tmp_path / "run", "--method", "imagination", "--imagination", "state",
             "--training.steps", 4, "--training.batch-size", 4)  # fmt: skip
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


def test_stable_baselines_in_imagination_and_in_the_real_world_are_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("stable_baselines3", reason="needs Stable-Baselines3: pip install stable-baselines3")
    small = ("envs", 2), ("rollout", 8), ("batch-size", 16), ("epochs", 1)
    imagined = (
        "train-agent", "--out", tmp_path / "dqn", "--method", "sb3", "--algorithm", "DQN",
        "--imagined-steps", 32, "--time-limit", 6, *(word for k, v in small for word in (f"--sb3.{k}", v)),
    )  # fmt: skip
    worldloop(*imagined, "--stop-after", 16)
    assert "Stopped as asked" in capsys.readouterr().out
    worldloop(*imagined)
    worldloop(
        "train-agent", "--out", tmp_path / "real", "--method", "ppo-real", "--real-steps", 32, "--level", "near",
        "--trials.every", 16, "--trials.episodes", 1, *(word for k, v in small for word in (f"--real.{k}", v)),
    )  # fmt: skip
    assert {path.name for path in (tmp_path / "real").iterdir()} >= {"agent", "best", "trials.json", "tensorboard"}
    worldloop(
        "evaluate", "transfer", "--agents", tmp_path / "dqn" / "agent", tmp_path / "real" / "agent",
        "--tasks", "find-near", "--episodes", 2, "--max-steps", 6, "--envs", 2, "--out", tmp_path / "transfer",
        "--beside", "real",
    )  # fmt: skip
    told = capsys.readouterr().out
    assert all(name in told for name in ("dqn", "real", "random")) and "dqn minus real: success" in told
    with pytest.raises(AssertionError, match="ended with status 1"):
        worldloop("evaluate", "transfer", "--agents", tmp_path / "dqn" / "agent", "--beside", "reel")
    assert "Nobody is called reel; there are dqn, random." in capsys.readouterr().err
