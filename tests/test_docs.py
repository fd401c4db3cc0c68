"""What README.md and docs/ say can be run, can be run: commands parse, modules and targets exist, examples work."""

from __future__ import annotations

import importlib.util
import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import tyro

import worldloop
from worldloop import cli

ROOT = Path(__file__).parent.parent
FILES = (ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")))
PAGES = {str(path.relative_to(ROOT)): path.read_text() for path in FILES}
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.M | re.S)
INLINE = re.compile(r"`([^`\n]+)`")


def _shell_lines() -> list[tuple[str, str]]:
    """(page, command) of every line of a shell block, long lines joined."""
    found = []
    for page, text in PAGES.items():
        for language, block in FENCE.findall(text):
            if language in ("sh", "bash"):
                found += [(page, line.strip()) for line in block.replace("\\\n", " ").splitlines() if line.strip()]
    return found


def _spans() -> list[tuple[str, str]]:
    """(page, code) of every piece of code within a sentence."""
    return [(page, span) for page, text in PAGES.items() for span in INLINE.findall(FENCE.sub("", text))]


def _words(line: str) -> list[str]:
    """The words of a command, without its comment and the variables set for it."""
    words = shlex.split(line, comments=True)
    while words and re.fullmatch(r"\w+=\S*", words[0]):
        del words[0]
    return words


def _parse(words: list[str]) -> Any:
    return tyro.cli(
        cli.Verb, args=words, config=(tyro.conf.OmitSubcommandPrefixes,), prog="worldloop", description=cli.DESCRIPTION
    )


COMMANDS = [(page, line) for page, line in _shell_lines() if _words(line)[:1] == ["worldloop"]]
MENTIONED = sorted({span for _, span in _spans() if span.startswith("worldloop ")})
MODULES = sorted({name for text in PAGES.values() for name in re.findall(r"python -m (worldloop[\w.]*)", text)})
TARGETS = sorted({name for _, span in [*_shell_lines(), *_spans()] for name in re.findall(r"\bmake ([a-z-]+)", span)})


def test_there_are_commands_modules_and_targets_to_check() -> None:
    assert len(COMMANDS) > 10 and len(MODULES) > 3 and TARGETS


@pytest.mark.parametrize(("page", "line"), COMMANDS)
def test_a_command_of_a_block_parses_as_it_stands(page: str, line: str) -> None:
    _parse(_words(line)[1:])


def _mention(span: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Accept a command that lacks nothing but what its sentence is not about, such as where to write."""
    try:
        _parse(_words(span.replace("…", ""))[1:])
    except SystemExit as end:
        told = capsys.readouterr().err
        if end.code and (re.search(r"Unrecognized|invalid choice|Unexpected", told) or "equired" not in told):
            raise ValueError(f"{span!r}: {told}") from None


@pytest.mark.parametrize("span", MENTIONED)
def test_a_command_within_a_sentence_has_a_verb_and_options_that_exist(
    span: str, capsys: pytest.CaptureFixture[str]
) -> None:
    _mention(span, capsys)


def test_a_command_that_does_not_exist_is_found_out(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        _parse(["imagine", "--steps", "many"])
    for wrong in ("worldloop collect --mapps 3", "worldloop colect"):
        with pytest.raises(ValueError, match=wrong):
            _mention(wrong, capsys)


@pytest.mark.parametrize("name", MODULES)
def test_a_module_to_run_exists(name: str) -> None:
    assert importlib.util.find_spec(name) is not None


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_of_make_exists(name: str) -> None:
    assert re.search(rf"^{name}:", (ROOT / "Makefile").read_text(), re.M)


# The examples in Python


@dataclass(frozen=True)
class Page:
    """How the examples of a page are run, one after the other in one namespace.

    Attributes:
        given: Python that makes what the text takes for granted before the example of this number (from 0).
        instead: what is shortened: text of an example, and what stands there in the test.
        needs: packages that examples need beside those of every example.
        slow: takes more than twenty seconds.
    """

    given: dict[int, str]
    instead: dict[str, str]
    needs: dict[int, str] = field(default_factory=dict)
    slow: bool = False


RECORDED = """
from pathlib import Path
from worldloop.envs.collecting import CollectConfig, collect
collect(CollectConfig(Path("data/train"), maps=1, steps=30, workers=1))
"""
REAL = """
from worldloop.envs.experience import KeepExperience
rooms = gym.make("worldloop/DoomRooms-v0", task="explore")
real = KeepExperience(rooms)
picture, told = real.reset(seed=1)
for action in [1, 5] * 10:
    picture, _, _, _, told = real.step(action)
pose = told["pose"]
"""
SEEN = """
import numpy as np
frames, actions, poses = frame[None, None], np.zeros((1, 1), int), info["pose"][None, None]
"""

CHANGING = """
env = gym.make("worldloop/DoomRooms-v0", task="explore", events=True)
pose = env.reset(seed=0)[1]["pose"]
poses = np.stack([pose, pose])
"""
HEADS = """
import torch
from worldloop.planning import MPPI, PolicySearch, Reward, TerminalValue, TreeSearch

class Actor:
    def act(self, vectors, uniform):
        return (uniform[:, 0] * 7).long()
    def probabilities(self, vectors):
        return torch.full((len(vectors), 7), 1 / 7)

class Critic:
    def value(self, vectors):
        return vectors.mean(1)

actor, critic = Actor(), Critic()
"""
REWARDED = """
from worldloop.agents.sb3_config import Sb3Config
from worldloop.envs.collecting import CollectConfig, collect
from worldloop.world_models.training.config import StageConfig
collect(CollectConfig(
    Path("data/train"), maps=2, steps=40, policy="search", env_kwargs={"task": "find", "level": "near"}, workers=1
))
"""
WHOLE = """
from dataclasses import replace
from pathlib import Path
from worldloop.planning import DraftThenRefine, ICEM
from worldloop.world_models.perception.state_encoder import StateConfig
from worldloop.world_models.storage import save_world
from worldloop.world_models.world_model import WorldModel
whole = WorldModel(replace(world.config, state=StateConfig()))
whole.load_state_dict(world.state_dict(), strict=False)
save_world(whole, Path("mine"), {})
name, objective = "mine", GoalPose(goal)
"""

PYTHON = {
    "README.md": Page(
        {1: REAL, 3: "goal_frame = picture", 5: SEEN},
        # One plan of twenty takes as long as the rest of the page.
        {"range(20)": "range(1)", "num_envs=64": "num_envs=4", "nano, 32,": "nano, 2,", "n_steps=32).learn(20_000)":
         "n_steps=4).learn(8)"},
        {4: "stable_baselines3"},
        slow=True,
    ),
    "docs/agents.md": Page(
        {0: "from pathlib import Path\n" + REWARDED},
        {'world="runs/mine/world"': 'world="doom-rooms-nano", samples=8, starts=4, context=4, imagined_steps=16, '
         "time_limit=4, sb3=Sb3Config(envs=2, rollout=8, batch_size=8), cloning=StageConfig(2, batch_size=4)",
         'split="validation")': 'split="validation", max_episode_steps=8)',
         "100_000": "64", "every=10_000, episodes=20": "every=32, episodes=1", "n=512, length=32": "n=4, length=4",
         "n_steps=128": "n_steps=4", "world, 8, starts": "world, 2, starts"},
        {0: "stable_baselines3", 1: "stable_baselines3"},
    ),
    "docs/interop.md": Page({5: RECORDED}, {}, {0: "moviepy", 4: "torchrl", 5: "minari", 6: "jax"}, slow=True),
    "docs/events.md": Page({0: CHANGING}, {}),
    "docs/planning.md": Page(
        {1: HEADS, 2: WHOLE},
        {"range(3)": "range(1)", "candidates=512, elites=16": "candidates=8, elites=2", "num_envs=4": "num_envs=1",
         "max_episode_steps=20": "max_episode_steps=2", "n_eval_episodes=4": "n_eval_episodes=1"},
        {5: "stable_worldmodel"},
        slow=True,
    ),
    "docs/other_worlds.md": Page({}, {}, dict.fromkeys(range(3), "miniworld")),
}
"""The pages whose examples are run here; `test_minedojo.py` has MineDojo's, which needs a game."""
ELSEWHERE = {"docs/minedojo.md"}


def examples(page: str) -> list[str]:
    """The Python blocks of a page."""
    return [block for language, block in FENCE.findall(PAGES[page]) if language == "python"]


def test_every_page_with_examples_is_run_somewhere() -> None:
    assert {page for page in PAGES if examples(page)} == set(PYTHON) | ELSEWHERE


@pytest.mark.parametrize(
    "page", [pytest.param(name, marks=[pytest.mark.slow] * how.slow, id=name) for name, how in PYTHON.items()]
)
def test_the_examples_of_a_page_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    how = PYTHON[page]
    missing = {n: package for n, package in how.needs.items() if importlib.util.find_spec(package) is None}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    names: dict[str, Any] = {"gym": gym, "np": np, "worldloop": worldloop}
    for number, block in enumerate(examples(page)):
        if number in missing:
            continue
        code = how.given.get(number, "") + "\n" + block
        for text, other in how.instead.items():
            code = code.replace(text, other)
        exec(compile(code, f"{page}, example {number}", "exec"), names)
    if missing:
        pytest.skip(f"The other examples ran; those numbered {list(missing)} need {sorted(set(missing.values()))}.")
