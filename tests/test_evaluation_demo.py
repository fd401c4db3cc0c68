"""The demonstration writes one page that needs nothing but itself."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from toy_world import ToyArena, ToyEnv, ToyWorld

from worldloop.envs.explorers import FunctionPolicy
from worldloop.evaluation.comparison import CompareConfig
from worldloop.evaluation.control_report import PlanConfig
from worldloop.evaluation.demo import DemoConfig, DemoReport, run_demo
from worldloop.evaluation.media import write_png
from worldloop.evaluation.page import Picture, Section, write_page

ARENA = ToyArena(goal=(-1e6, 0.0), size=800.0)
WALKER = FunctionPolicy(lambda observation, info, rng: int(rng.integers(7)), "random")
CONFIG = DemoConfig(
    CompareConfig(maps=3, context=2, horizon=4, pictures=1),
    PlanConfig(
        goal="pose", episodes=2, horizon=5, context=2, nearest=3, farthest=6, budget=6, pictures=1, batch=2
    ),
)
VOID = {"meta", "img", "br", "link"}


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
    return run_demo(ToyWorld(ARENA), out, CONFIG, make_env=lambda: ToyEnv(ARENA), explorer=WALKER)


def test_the_page_is_well_formed_and_needs_no_other_file(demo: DemoReport) -> None:
    reader = Reader()
    text = demo.page.read_text()
    reader.feed(text)
    assert not reader.open
    kinds = [s.split(";")[0] for s in reader.sources]
    assert kinds.count("data:video/mp4") == 2 and kinds.count("data:image/png") == 3
    assert set(kinds) == {"data:video/mp4", "data:image/png"}
    assert "http" not in re.sub(r"base64,\S+", "", text)


def test_the_numbers_on_the_page_are_those_of_the_reports(demo: DemoReport) -> None:
    text = re.sub(r"base64,\S+", "", demo.page.read_text())
    assert f"{demo.compare.next_frame.imagined.estimate:.1f}" in text
    reached = demo.plan.planner.success
    assert f"{round(reached.estimate * 2)} of 2" in text
    assert {"compare.json", "clip-0.mp4"} <= {p.name for p in (demo.page.parent / "compare").iterdir()}


def test_texts_are_escaped_and_strange_files_refused(tmp_path: Path) -> None:
    picture = write_png(tmp_path / "p.png", np.zeros((4, 4, 3), np.uint8))
    page = write_page(tmp_path / "i.html", "a < b", "", [Section("s", pictures=(Picture(picture, "<i>"),))])
    assert "a &lt; b" in page.read_text() and "<i>" not in page.read_text()
    with pytest.raises(ValueError, match=r"not p\.txt"):
        write_page(page, "", "", [Section("s", pictures=(Picture(tmp_path / "p.txt", ""),))])
