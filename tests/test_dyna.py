"""`worldloop run`: rounds in order, each with the last agent's experience; the same end however often it is killed."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import FEW_ROUNDS, worldloop
from patience import PATIENCE, wait_until
from rollout_data import same

from worldloop.agents.dyna_config import DynaAgent, DynaCollect, DynaConfig, smoke
from worldloop.agents.dyna_ledger import Ledger, Outcome, clock
from worldloop.agents.train import TrainAgentConfig
from worldloop.envs.explorers import digest_of
from worldloop.errors import ConfigError
from worldloop.rollouts.store import open_dataset

STAGES = ["collect", "world", "agent", "transfer"]


def words(out: Path, rounds: int, *more: str) -> tuple[str, ...]:
    return ("run", "--out", str(out), "--rounds", str(rounds), "--workers", "1", "--device", "cpu", *FEW_ROUNDS, *more)


def started(out: Path, rounds: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "worldloop.cli", *words(out, rounds)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def completed(out: Path, rounds: int) -> dict[str, Any]:
    """``run.json`` of a run that went to its end."""
    with started(out, rounds) as process:
        told = process.communicate(timeout=PATIENCE)[1]
        assert process.returncode == 0, told
    data: dict[str, Any] = json.loads((out / "run.json").read_text())
    return data


def left_behind(out: Path) -> dict[str, Any]:
    """Everything that a run comes to, but for times and for where it lies."""
    found: dict[str, Any] = {"data": open_dataset(out / "data").fingerprint}
    for number in (0, 1):
        for file in ("world/world/weights.safetensors", "agent/agent/weights.safetensors"):
            content = (out / f"round-{number}" / file).read_bytes()
            found[f"{number}/{file}"] = hashlib.sha256(content).hexdigest()
        report = json.loads((out / f"round-{number}" / "transfer" / "transfer.json").read_text())
        found[f"{number}/transfer"] = report["episodes"]
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """A run of one round that was then asked for two, and what ``run.json`` said each time."""
    out = tmp_path_factory.mktemp("dyna") / "run"
    return out, [completed(out, 1), completed(out, 2)]


def test_every_round_records_trains_the_world_on_and_an_agent_in_it_and_tries_that(
    whole: tuple[Path, list[dict[str, Any]]],
) -> None:
    out, (one, two) = whole
    assert [(s["round"], s["stage"]) for s in one["stages"]] == [(0, stage) for stage in STAGES]
    assert [(s["round"], s["stage"]) for s in two["stages"]] == [(r, stage) for r in (0, 1) for stage in STAGES]
    assert two["stages"][:4] == one["stages"], "what was finished is left alone"
    assert all(s["seconds"] > 0 and s["outcome"]["steps"] > 0 and s["sessions"] == 1 for s in two["stages"])
    recordings = [open_dataset(out / f"round-{number}" / "data") for number in (0, 1)]
    assert [np.unique(r.map_seeds).tolist() for r in recordings] == [[0, 1, 2], [3, 4]]
    assert "agent" not in recordings[0].info.recipe
    assert recordings[1].info.recipe["agent"] == digest_of(out / "round-0" / "agent" / "agent")
    assert len({e.policy for e in recordings[1].episodes()} - {"agent"}) == 1, "the explorers go on beside it"
    assert "agent" in {e.policy for e in recordings[1].episodes()}
    together = open_dataset(out / "data")
    assert together.num_frames == sum(r.num_frames for r in recordings)
    assert all(
        same(a, b) for a, b in zip(together.episodes(), [e for r in recordings for e in r.episodes()], strict=True)
    )
    about = json.loads((out / "round-1" / "world" / "world" / "world.json").read_text())["about"]
    assert about["data"]["frames"] == together.num_frames
    (base,) = about["training"]["start_from"]
    assert Path(base) == (out / "round-0" / "world" / "world").resolve()
    told = (out / "report.md").read_text()
    assert "over chance" in told and "| 1 | world |" in told and "Wall time of all stages" in told


@pytest.mark.slow
def test_killed_in_every_stage_it_comes_to_the_same_end(
    whole: tuple[Path, list[dict[str, Any]]], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    for sign in (
        "round-0/data/map-000000.h5",
        "round-0/world/autoencoder.safetensors",
        "round-0/agent/cloning.safetensors",
        "round-0/agent/sb3.safetensors",
        "round-1/transfer/episodes/*.json",
    ):
        with started(out, 2) as process:
            wait_until(lambda sign=sign: list(out.glob(sign)), process)  # type: ignore[misc]
            process.kill()
    killed = json.loads((out / "run.json").read_text())
    assert any(stage["outcome"] is None for stage in killed["stages"])
    done = completed(out, 2)
    assert sum(stage["sessions"] - 1 for stage in done["stages"]) >= 4
    assert left_behind(out) == left_behind(whole[0])


def test_another_configuration_is_refused_by_name_and_nothing_is_touched(
    whole: tuple[Path, list[dict[str, Any]]], capsys: pytest.CaptureFixture[str]
) -> None:
    out = whole[0]
    before = (out / "run.json").read_bytes()
    for more, told in (
        (("--seed", "7"), "seed is 0 there and 7 here"),
        (("--further.dynamics.steps", "9"), "further.dynamics.steps is 4 there and 9 here"),
        (("--transfer.episodes", "5"), "transfer.tests.episodes is 4 there and 5 here"),
    ):
        with pytest.raises(AssertionError, match="ended with status 1"):
            worldloop(*words(out, 2, *more))
        assert told in capsys.readouterr().err
    assert (out / "run.json").read_bytes() == before
    began = time.monotonic()
    worldloop(*words(out, 2))
    assert time.monotonic() - began < 20 and "The last agent is in" in capsys.readouterr().out
    after = json.loads((out / "run.json").read_text())
    assert after["stages"] == json.loads(before)["stages"], "nothing was left to do"


def test_the_stages_of_a_run_fit_together() -> None:
    config = DynaConfig(Path("x"), rounds=3)
    firsts = [config.recording(number, Path("agent")) for number in range(3)]
    assert [m for r in firsts for m in r.map_seeds] == list(range(config.maps_after(2)))
    assert [r.agent for r in firsts] == [None, Path("agent"), Path("agent")]
    assert config.world(0).start_from == () and config.world(0).autoencoder == config.first.autoencoder
    assert config.world(2).start_from == (str(Path("x/round-1/world/world").resolve()),)
    assert config.learning(1).world == "x/round-1/world/world" and config.learning(1).data == config.data
    asked = DynaConfig(Path("x"), collect=DynaCollect(search=0.5), agent=DynaAgent(samples=7, rewarded=False))
    assert asked.recording(0, None).search == 0.5 and firsts[0].search == config.collect.search
    assert asked.learning(0).samples == 7 and asked.learning(0).imitate and not asked.learning(0).rewarded
    ours = DynaConfig(Path("x"), agent=DynaAgent(method="imagination", imagination="state")).learning(2)
    assert (ours.method, ours.imagination, ours.seed) == ("imagination", "state", 2)
    alone = TrainAgentConfig(Path("x/round-0/agent"), world="x/round-0/world/world", data=config.data)
    told = {"device": config.device, "checkpoint_every": config.checkpoint_every}
    assert config.learning(0) == replace(alone, **told), "an agent of a run learns as one alone"
    assert smoke(config).maps_after(1) < 20 and smoke(config).rounds == 2
    with pytest.raises(ConfigError, match="at least one round"):
        DynaConfig(Path("x"), rounds=0)
    with pytest.raises(ConfigError, match="at least two frames"):
        worldloop_collect = DynaConfig(Path("x")).collect
        DynaConfig(Path("x"), collect=type(worldloop_collect)(steps=1))


def test_a_ledger_adds_up_the_time_of_all_sessions_and_does_nothing_twice(tmp_path: Path) -> None:
    path = tmp_path / "run.json"

    def slow(tick: Any) -> Outcome:
        time.sleep(0.2)
        tick()
        raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            Ledger(path, {"a": {"b": 1}}, {}).do(0, "work", slow)
    ledger = Ledger(path, {"a": {"b": 1}}, {})
    assert ledger.stages[0].sessions == 2 and 0.4 <= ledger.stages[0].seconds < 2
    assert "not finished" in str(ledger)
    outcome = Outcome(3, {"x": 1.5}, "three things")
    assert ledger.do(0, "work", lambda tick: outcome) == outcome
    again = Ledger(path, {"a": {"b": 1}}, {})
    assert again.do(0, "work", slow) == outcome, "it is not done again"
    assert "| 0 | work | 0:00:00 | 3 | 3 | three things |" in str(again)
    with pytest.raises(ConfigError, match=r"a\.b is 1 there and 2 here"):
        Ledger(path, {"a": {"b": 2}}, {})
    for other in ('{"fingerprint": "of a training"}', "[1, 2]", "{"):
        path.write_text(other)
        with pytest.raises(ConfigError, match="something else"):
            Ledger(path, {"a": {"b": 1}}, {})
        assert path.read_text() == other
    assert clock(3723.4) == "1:02:03"


def test_ctrl_c_says_that_the_same_command_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with started(out, 1) as process:
        wait_until(lambda: list(out.glob("round-0/data/map-*.h5")), process)
        process.send_signal(signal.SIGINT)
        told = process.communicate(timeout=PATIENCE)[1]
    assert process.returncode == 130 and "Traceback" not in told
    assert told.splitlines()[-1].startswith("Stopped.")
    (stage,) = json.loads((out / "run.json").read_text())["stages"][-1:]
    assert stage["outcome"] is None and stage["seconds"] > 0
    assert "not finished" in (out / "report.md").read_text()
