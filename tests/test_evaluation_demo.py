"""The demonstration writes one page that needs nothing but itself."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from toy_world import KEYS, ToyArena, ToyEnv, ToyWorld

from worldloop.agents import ActorCritic, ActorCriticConfig, Agent
from worldloop.envs.doom_rooms.layout import generate
from worldloop.envs.explorers import FunctionPolicy
from worldloop.evaluation.comparison import CompareConfig
from worldloop.evaluation.control_report import PlanConfig
from worldloop.evaluation.demo import DemoConfig, DemoReport, run_demo
from worldloop.evaluation.demo_agent import AGENT, AgentConfig, agent_at_work, film
from worldloop.evaluation.demo_sections import agent_section
from worldloop.evaluation.media import write_png
from worldloop.evaluation.metrics import wilson
from worldloop.evaluation.page import Picture, Section, write_page
from worldloop.rollouts.episode import Episode

ARENA = ToyArena(goal=(-1e6, 0.0), size=800.0)
WALKER = FunctionPolicy(lambda observation, info, rng: int(rng.integers(7)), "random")
CONFIG = DemoConfig(
    CompareConfig(maps=3, context=2, horizon=4, pictures=1),
    PlanConfig(
        goal="pose", episodes=2, horizon=5, context=2, nearest=3, farthest=6, budget=6, pictures=1, batch=2
    ),
    AgentConfig(episodes=4, films=2),
)
# Half of it is goal, so that some episodes are over soon and others never.
HALF = ToyArena(goal=(0.0, 0.0), goal_radius=260.0)
VOID = {"meta", "img", "br", "link"}


class Rooms(ToyEnv):
    """Says which map it shows."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        frame, info = super().reset(seed=seed, options=options)
        return frame, info | {"map_seed": (options or {}).get("map_seed", 0)}


def untrained(arena: ToyArena) -> Agent:
    """Goes straight on for the most part."""
    torch.manual_seed(0)
    agent = Agent(ToyWorld(arena), ActorCritic(4, KEYS, ActorCriticConfig()))
    with torch.no_grad():
        agent.heads.policy.net[-1].bias[1] = 2.0  # type: ignore[union-attr, index]
    return agent


class Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.sources += [v or "" for k, v in attrs if k in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> DemoReport:
    out = tmp_path_factory.mktemp("demo")
    return run_demo(
        ToyWorld(ARENA), out, CONFIG, agent=untrained(ARENA), make_env=lambda: Rooms(ARENA, max_episode_steps=30),
        explorer=WALKER,
    )  # fmt: skip


def test_the_page_is_well_formed_and_needs_no_other_file(demo: DemoReport) -> None:
    reader = Reader()
    text = demo.page.read_text()
    reader.feed(text)
    assert not reader.open
    kinds = [s.split(";")[0] for s in reader.sources]
    assert kinds.count("data:video/mp4") == 4 and kinds.count("data:image/png") == 3
    assert set(kinds) == {"data:video/mp4", "data:image/png"}
    assert "http" not in re.sub(r"base64,\S+", "", text)


def test_the_numbers_on_the_page_are_those_of_the_reports(demo: DemoReport) -> None:
    text = re.sub(r"base64,\S+", "", demo.page.read_text())
    assert f"{demo.compare.next_frame.imagined.estimate:.1f}" in text
    reached = demo.plan.planner.success
    assert f"{round(reached.estimate * 2)} of 2" in text
    assert "<tr><td>the agent</td><td>0 of 4 (0% to 49%)</td><td>-</td></tr>" in text, "the goal is too far for it"
    assert {"compare.json", "clip-0.mp4"} <= {p.name for p in (demo.page.parent / "compare").iterdir()}


def test_an_agent_is_filmed_in_the_first_episodes_that_are_counted(tmp_path: Path) -> None:
    agent = untrained(HALF)
    report = agent_at_work(
        agent, AgentConfig(episodes=12, films=3, seed=1), tmp_path, make_env=lambda: Rooms(HALF, max_episode_steps=25)
    )
    played = report.episodes["find-near"][AGENT]
    assert len({p.map_seed for p in played}) == 12 and 0 < sum(p.success for p in played) < 12
    (table,) = agent_section(report, AgentConfig(episodes=12, films=3), tmp_path).tables
    for row, name in zip(table.rows, (AGENT, "random"), strict=True):
        found = [p.steps for p in report.episodes["find-near"][name] if p.success]
        rate = wilson(len(found), 12)
        assert row[1:] == (f"{len(found)} of 12 ({rate.low:.0%} to {rate.high:.0%})", f"{np.mean(found):.1f}")
    assert sorted(path.name for path in tmp_path.glob("*.mp4")) == ["film-0.mp4", "film-1.mp4", "film-2.mp4"]
    for number, one in enumerate(played[:3]):
        shown = iio.imread(tmp_path / f"film-{number}.mp4", plugin="pyav")
        assert len(shown) == one.steps + 1 + 8
        # The episode begins where its map and the seed say.
        start = int(np.random.default_rng([1, one.map_seed]).integers(2**31))
        frame, _ = Rooms(HALF).reset(seed=start, options={"map_seed": one.map_seed})
        view = shown[0, 24 : 24 + 36 * 6, 8 : 8 + 48 * 6].reshape(36, 6, 48, 6, 3).mean((1, 3))
        assert np.abs(view - frame).mean() < 8


def test_a_film_shows_what_was_seen_and_beside_it_the_way_over_the_map() -> None:
    rng = np.random.default_rng(0)
    layout, n = generate(3), 4
    poses = np.array([[100.0 + 25 * t, 100, 41, 0, 0] for t in range(n)])
    no, last = np.zeros(n, bool), np.arange(n) == n - 1
    frames = rng.integers(0, 256, (n, 48, 64, 3)).astype(np.uint8)
    episode = Episode(frames, np.zeros(n, np.int64), poses, np.zeros(n, np.float32), last, no, no, last, 3)
    alone, beside = film(episode), film(episode, layout)
    assert len(alone) == len(beside) == n + 8
    for shown in (alone, beside):
        view = shown[:n, 24 : 24 + 48 * 6, 8 : 8 + 64 * 6]
        assert np.array_equal(view[:, ::6, ::6], frames) and np.array_equal(view[:, 5::6, 5::6], frames)
        assert (shown[n:] == shown[n - 1]).all()
    blue = (beside[:n, :, 8 + 64 * 6 + 8 :] == (0x1F, 0x6F, 0xD0)).all(-1).sum((1, 2))
    assert (np.diff(blue) > 0).all(), "the way grows with every step"


def test_texts_are_escaped_and_strange_files_refused(tmp_path: Path) -> None:
    picture = write_png(tmp_path / "p.png", np.zeros((4, 4, 3), np.uint8))
    page = write_page(tmp_path / "i.html", "a < b", "", [Section("s", pictures=(Picture(picture, "<i>"),))])
    assert "a &lt; b" in page.read_text() and "<i>" not in page.read_text()
    with pytest.raises(ValueError, match=r"not p\.txt"):
        write_page(page, "", "", [Section("s", pictures=(Picture(tmp_path / "p.txt", ""),))])
