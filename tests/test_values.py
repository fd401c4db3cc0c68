"""`evaluate values`: where the world is exact, what is imagined is what comes; what is wrong shows by its amount."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import worldloop
from scipy.stats import spearmanr
from small_agent import small_agent, small_world
from test_agents_acting import ARENA, agent
from torch import nn
from toy_world import KEYS, ToyArena, ToyEnv, ToyWorld

from worldloop.agents import load_agent
from worldloop.agents.agent import Agent
from worldloop.agents.frame_stack import FrameStack
from worldloop.errors import ConfigError
from worldloop.evaluation import values
from worldloop.evaluation.values import agent_in, draw_starts, evaluate_values
from worldloop.evaluation.values_report import ValuesConfig, ValuesReport, summarise

CONFIG = ValuesConfig(starts=24, context=5, samples=3, horizon=12, envs=5)
NOWHERE = replace(ARENA, goal=(-1e6, 0.0))
"""Nothing is ever paid there, and nothing ends."""


class SavedEnv(ToyEnv):
    """Begins not far from the goal and can go back to a moment; every step may pay something more."""

    def __init__(self, arena: ToyArena = ARENA, extra: float = 0.0) -> None:
        super().__init__(arena)
        self.extra = extra
        self.maps: list[int] = []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        assert seed is not None and options is not None
        rng = np.random.default_rng([seed, options["map_seed"]])
        self.maps.append(options["map_seed"])
        return super().reset(seed=seed, options={"pose": [*rng.uniform(60, 110, 2), 0, rng.uniform(-3, 3), 0]})

    def step(self, action: Any) -> Any:
        frame, reward, *rest = super().step(action)
        return frame, reward + self.extra, *rest

    def save_state(self) -> Any:
        return self._pose.clone(), self._elapsed

    def load_state(self, data: Any) -> Any:
        self._pose, self._elapsed = data[0].clone(), data[1]
        return self._frame(), self._info()


class WrongWorld(ToyWorld):
    """Every step pays something more, and may end the episode."""

    def __init__(self, arena: ToyArena = ARENA, extra: float = 0.0, goes_on: float = 1.0) -> None:
        super().__init__(arena)
        self.extra, self.goes_on = extra, goes_on

    def imagine(self, state: Any, actions: Any, pose: Any = None) -> Any:
        state, step = super().imagine(state, actions, pose)
        return state, replace(step, reward=step.reward + self.extra, continues=step.continues * self.goes_on)


class Says(nn.Module):
    """A critic: so much everywhere, or so much more than another."""

    def __init__(self, much: float, than: nn.Module | None = None) -> None:
        super().__init__()
        self.much, self.than = much, than

    def value(self, vectors: torch.Tensor) -> torch.Tensor:
        return self.much + (0 * vectors[..., 0] if self.than is None else self.than.value(vectors))


def seen_by(critic: nn.Module | None = None) -> Agent:
    actor = agent()
    if critic is not None:
        actor.heads.critic = critic  # type: ignore[assignment]
    return actor


def found(
    world: ToyWorld, actor: Agent | None = None, config: ValuesConfig = CONFIG, out: Path | None = None,
    env: Any = SavedEnv,
) -> ValuesReport:  # fmt: skip
    return evaluate_values(world, actor or agent(), config, out, make_env=env)


@pytest.fixture(scope="module")
def exact() -> ValuesReport:
    return found(ToyWorld(ARENA))


def test_where_the_world_is_exact_every_imagined_life_is_the_real_one(exact: ValuesReport) -> None:
    starts = exact.starts
    assert np.allclose(starts["imagined"], starts["real"], atol=1e-6) and starts["real"].std() > 0.05
    assert np.allclose(starts["imagined_end"], starts["success"], atol=1e-6)
    assert np.allclose(starts["imagined_sum"], starts["real_sum"], atol=1e-6)
    assert abs(exact.means["gap"].high) < 1e-6 and exact.correlation["imagined"].estimate == pytest.approx(1)


def test_real_lives_are_those_of_the_policy_from_the_start(exact: ValuesReport) -> None:
    """The same starts, lived through by other code: many lives from each, so that chance evens out."""
    actor, gamma = agent(), agent().heads.config.discount
    starts = draw_starts(SavedEnv(), exact.maps.tolist(), actor, CONFIG)
    rng, expected, ends = np.random.default_rng(0), [], []
    for start in starts:
        pose = torch.as_tensor(start.seen["pose"])
        returns, pose = np.zeros(200), pose.expand(200, 5)
        alive = np.ones(200, bool)
        for t in range(CONFIG.horizon):
            likely = actor.probabilities(ARENA.latents(pose)[:, :, 0, 0]).numpy()
            keys = (likely.cumsum(1) < rng.uniform(size=(200, 1))).sum(1).clip(max=KEYS.n - 1)
            pose = ARENA.arrive(pose, torch.as_tensor(keys))
            there = ARENA.at_goal(pose).numpy()
            returns += gamma**t * (alive & there)
            alive &= ~there
        expected.append(returns.mean())
        ends.append(1 - alive.mean())
    error = np.sqrt(np.var(exact.starts["real"] - expected) / CONFIG.starts)
    assert abs(exact.means["real"].estimate - np.mean(expected)) < 4 * error < 0.3
    assert np.corrcoef(exact.starts["success"], ends)[0, 1] > 0.5


def test_a_start_is_a_moment_that_chance_led_to_while_the_agent_looked_on() -> None:
    amid = replace(ARENA, goal=(85.0, 85.0), goal_radius=15.0)
    env, actor = SavedEnv(amid), agent()
    maps = list(range(100_000, 100_040))
    starts = draw_starts(env, maps, actor, CONFIG)
    assert set(env.maps) == set(maps) and len(env.maps) > len(maps), "a walk that ends there is walked otherwise"
    looked = [int(start.known.world.step[0]) for start in starts]
    assert set(looked) == set(range(CONFIG.context)), "frames seen before the newest one"
    for start, steps in zip(starts, looked, strict=True):
        frame, info = env.load_state(start.moment)
        assert np.array_equal(frame, start.seen["frame"][0]) and np.array_equal(info["pose"], start.seen["pose"][0])
        assert not info["success"] or not steps
        if steps:
            # The action that is said to have led here did.
            led = amid.arrive(start.known.world.pose, start.known.acted)
            assert np.allclose(led[0], info["pose"])
    again = draw_starts(SavedEnv(amid), maps, actor, CONFIG)
    assert all(np.array_equal(a.seen["pose"], b.seen["pose"]) for a, b in zip(starts, again, strict=True))


@pytest.mark.parametrize("goes_on", [1.0, 0.9])
def test_a_world_that_pays_too_much_shows_exactly_that_gap(goes_on: float) -> None:
    report = found(WrongWorld(NOWHERE, 0.1, goes_on), env=lambda: SavedEnv(NOWHERE))
    gamma = report.discount
    extra = 0.1 * sum((gamma * goes_on) ** t for t in range(CONFIG.horizon))
    assert np.allclose(report.starts["gap"], extra, atol=1e-5) and np.allclose(report.starts["real"], 0)
    assert np.allclose(report.starts["imagined_sum"], 0.1 * sum(goes_on**t for t in range(CONFIG.horizon)), atol=1e-5)
    assert np.allclose(report.starts["imagined_end"], 1 - goes_on**CONFIG.horizon, atol=1e-5)
    assert report.means["gap"].estimate == pytest.approx(extra, abs=1e-5)


@pytest.mark.parametrize("goes_on", [1.0, 0.9])
def test_a_true_value_is_the_imagined_return_and_what_comes_after_it(goes_on: float) -> None:
    true = 0.1 / (1 - agent().heads.config.discount * goes_on)
    report = found(WrongWorld(NOWHERE, 0.1, goes_on), seen_by(Says(true)), env=lambda: SavedEnv(NOWHERE))
    assert np.allclose(report.starts["completed_error"], 0, atol=1e-4)
    assert (report.starts["imagination_error"] > 0.1).all()


def test_a_critic_that_says_one_too_much_is_wrong_by_one(exact: ValuesReport) -> None:
    more = found(ToyWorld(ARENA), seen_by(Says(1.0, agent().heads.critic)))
    for name in ("value", "imagination_error", "reality_error"):
        assert np.allclose(more.starts[name], exact.starts[name] + 1, atol=1e-5), name
    assert more.means["reality_error"].estimate == pytest.approx(exact.means["reality_error"].estimate + 1)
    assert np.array_equal(more.starts["real"], exact.starts["real"])
    alive = (1 - exact.starts["imagined_end"]) * exact.discount**CONFIG.horizon
    assert np.allclose(more.starts["completed"], exact.starts["completed"] + alive, atol=1e-5)


def test_what_really_comes_is_asked_of_the_environment() -> None:
    report = found(ToyWorld(NOWHERE), env=lambda: SavedEnv(NOWHERE, 0.1))
    assert np.allclose(report.starts["real_sum"], 0.1 * CONFIG.horizon) and np.allclose(report.starts["imagined"], 0)


def test_how_many_live_side_by_side_changes_nothing(exact: ValuesReport, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(values, "_IMAGINED_AT_ONCE", 15)
    few = found(ToyWorld(ARENA), config=replace(CONFIG, envs=2))
    for name, column in few.starts.items():
        np.testing.assert_allclose(column, exact.starts[name], rtol=1e-5, atol=5e-5, err_msg=name)
    other = found(ToyWorld(ARENA), config=replace(CONFIG, seed=1))
    assert not np.allclose(other.starts["value"], exact.starts["value"])


def test_lives_from_one_start_differ_by_chance() -> None:
    few, many = (found(ToyWorld(ARENA), config=replace(CONFIG, samples=n)).starts for n in (1, 16))
    assert set(few["success"]) == {0.0, 1.0} and len(set(many["success"])) > 2
    assert np.allclose(few["value"], many["value"])


def made(rng: np.random.Generator, n: int) -> dict[str, np.ndarray]:
    names = ("value", "imagined", "completed", "imagined_sum", "imagined_end", "real", "real_sum", "success")
    return {name: rng.normal(size=n) for name in names}


def test_bins_and_correlations_are_what_they_say() -> None:
    lived, maps = made(np.random.default_rng(0), 23), np.arange(23)
    report = summarise(CONFIG, 0.9, maps, lived)
    assert report.correlation["value"].estimate == pytest.approx(spearmanr(lived["value"], lived["real"]).statistic)
    assert report.correlation["imagined"].estimate == pytest.approx(
        spearmanr(lived["imagined"], lived["real"]).statistic
    )
    assert [one["value"].n for one in report.bins] == [5, 5, 5, 4, 4]
    rows = sorted(zip(*(lived[name] for name in ("value", "imagined", "real")), strict=True))
    for one in report.bins:
        mine, rows = rows[: one["value"].n], rows[one["value"].n :]
        means = [one[name].estimate for name in ("value", "imagined", "real")]
        assert means == pytest.approx(np.mean(mine, 0))
    assert len(summarise(CONFIG, 0.9, maps[:2], {name: x[:2] for name, x in lived.items()}).bins) == 2


def test_the_report_is_written_and_told(exact: ValuesReport, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    report = evaluate_values(
        ToyWorld(ARENA), agent(), CONFIG, tmp_path, make_env=SavedEnv, progress=lambda *news: told.append(news)
    )
    data = json.loads((tmp_path / "values.json").read_text(), parse_constant=pytest.fail)
    assert data["starts"]["real"] == pytest.approx(exact.starts["real"].tolist()) and len(data["bins"]) == 5
    assert data["means"]["real"]["estimate"] == pytest.approx(np.mean(data["starts"]["real"]))
    assert (tmp_path / "values.png").stat().st_size > 0
    assert told[CONFIG.starts - 1] == ("finding starts", 24, 24) and told[-1] == ("lives, imagined and real", 72, 72)
    lines = str(report).splitlines()
    assert f"| real return | {report.means['real']} |" in lines
    assert sum(line.startswith("|") for line in lines) == 2 + len(report.means) + len(report.correlation) + 2 + 5


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(ConfigError, match="frames alone"):
        found(FrameStack((36, 48), KEYS))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="save_state"):
        found(ToyWorld(ARENA), env=lambda: ToyEnv(ARENA))
    with pytest.raises(ConfigError, match="real environment"):
        found(ToyWorld(ARENA), env=lambda: SavedEnv(replace(ARENA, frame_size=(24, 32))))
    for change, message in (
        ({"split": "train"}, "not on 'train'"), ({"level": "here"}, "near, next, far"), ({"samples": 0}, "at least 1")
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=message):
            replace(CONFIG, **change)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("agent")
    return small_agent(root / "agent", small_world(root / "world"))


def test_the_world_imagines_as_asked_as_in_training_or_as_it_does_by_itself(saved: Path, tmp_path: Path) -> None:
    def way(path: Path, asked: Any = None) -> str:
        world, _ = agent_in(path, asked)
        return world.config.imagination  # type: ignore[attr-defined,no-any-return]

    assert way(saved) == "video" and way(saved, "state") == "state"
    load_agent(saved).save(tmp_path, {"config": {"imagination": "state"}})
    assert way(tmp_path) == "state" and way(tmp_path, "video") == "video"


def test_one_command_in_the_rooms(saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ("--starts", 3, "--samples", 2, "--horizon", 3, "--context", 2, "--envs", 2, "--level", "next")
    reports = []
    for way in ("video", "state"):
        worldloop("evaluate", "values", "--agent", saved, *small, "--imagination", way, "--out", tmp_path / way)
        assert f"3 steps from each, imagined in {way} and real" in capsys.readouterr().out
        reports.append(json.loads((tmp_path / way / "values.json").read_text()))
    video, state = (report["starts"] for report in reports)
    # What really comes does not depend on what is imagined: three steps that cost 0.002 each.
    assert video["real"] == state["real"] and video["completed"] != state["completed"]
    assert video["real_sum"] == pytest.approx([-0.006] * 3) and video["value"] == pytest.approx(state["value"])
    with pytest.raises(AssertionError, match="ended with status 1"):
        worldloop("evaluate", "values", "--agent", tmp_path / "nothing")
    assert "error:" in capsys.readouterr().err
