"""`worldloop plan` and `worldloop evaluate planning | ranking` as their users run them, in the real rooms."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from commands import worldloop

from worldloop.envs.doom_rooms.env import DoomRoomsEnv
from worldloop.world_models.config import preset
from worldloop.world_models.storage import save_world
from worldloop.world_models.world_model import WorldModel

FEW = ("--candidates", 4, "--elites", 2, "--iterations", 1, "--horizon", 2, "--budget", 2, "--context", 4)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("world")
    torch.manual_seed(0)
    save_world(WorldModel(preset("tiny", DoomRoomsEnv().action_spec)), path, {})
    return path


def test_a_plan_is_drafted_in_state_space_and_drawn(world: Path, tmp_path: Path) -> None:
    how = ("--imagination", "draft", "--solver", "icem", "--pictures", 1, "--episodes", 1, "--random-repeats", 1)
    worldloop("plan", "--world", world, *FEW, *how, "--out", tmp_path)
    report = json.loads((tmp_path / "plan.json").read_text())
    assert report["draft_steps"] > 0 and report["config"]["place"] == "straight"
    assert {path.name for path in tmp_path.glob("episode-0-*.png")} == {
        f"episode-0-{kind}.png" for kind in ("map", "plans", "strip")
    }


def test_goals_behind_walls_are_given_as_recorded_frames(world: Path, tmp_path: Path) -> None:
    where = ("--place", "behind", "--exploration", 60, "--behind-budget", 2, "--goal", "index")
    worldloop("plan", "--world", world, *FEW, *where, "--pictures", 0, "--episodes", 1, "--out", tmp_path)
    (episode,) = json.loads((tmp_path / "plan.json").read_text())["episodes"]
    assert episode["place"] == "behind" and 1 <= episode["ago"] < 60 and not episode["in_view"]


def test_one_command_prints_the_table(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    worlds = ("--worlds", f"mine={world}", f"forgetful={world}@none")
    rows = ("--episodes", 1, "--places", "near", "--baselines", "oracle")
    worldloop("evaluate", "planning", *worlds, *rows, *FEW, "--out", tmp_path)
    told = capsys.readouterr().out
    assert (tmp_path / "planning.md").read_text() in told
    heads = [line.split("|")[1].strip() for line in told.splitlines() if line.startswith("|")]
    assert heads[2:5] == ["oracle", "cem, video, mine", "cem, video, forgetful"]


def test_one_command_tells_how_imagined_returns_rank_real_ones(world: Path, tmp_path: Path) -> None:
    plans = ("--starts", 1, "--plans", 4, "--budgets", 2, 4, "--horizon", 2, "--context", 4)
    worldloop("evaluate", "ranking", "--worlds", world, *plans, "--out", tmp_path)
    report = json.loads((tmp_path / "ranking.json").read_text())
    assert len(report["choices"]) == 2 * 4
