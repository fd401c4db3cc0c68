"""The table of planning: cells that are kept, equal wall time, and baselines that learn what they are said to learn."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from toy_world import KEYS, ToyArena, ToyEnv, ToyWorld

from worldloop.envs.explorers import FunctionPolicy
from worldloop.errors import ConfigError, DataError
from worldloop.evaluation.equal_time import candidates_for
from worldloop.evaluation.execution import execute
from worldloop.evaluation.goal_sampling import sample_goals
from worldloop.evaluation.goals import GoalTask, Reached
from worldloop.evaluation.imitation import ImitationConfig
from worldloop.evaluation.imitation_training import hindsight_pairs, imitate
from worldloop.evaluation.metrics import wilson
from worldloop.evaluation.planning_cells import Cell, Episode
from worldloop.evaluation.planning_methods import Search, Worlds
from worldloop.evaluation.planning_report import PlanningConfig, PlanningReport
from worldloop.evaluation.planning_table import planning_table
from worldloop.planning import CEM, DraftThenRefine, GradientPlanner, TreeSearch
from worldloop.rollouts.cache import TrainingCache
from worldloop.rollouts.episode import Episode as Recorded
from worldloop.rollouts.metadata import DatasetInfo
from worldloop.rollouts.store import DatasetWriter, open_dataset

ARENA = ToyArena(goal=(-1e6, 0.0), size=800.0)
WALKER = FunctionPolicy(lambda observation, info, rng: int(rng.integers(7)), "random")
CONFIG = PlanningConfig(
    places=("near", "out-of-view"), baselines=("random", "oracle"), goal="pose", episodes=4, horizon=6, candidates=24,
    iterations=2, elites=4, context=3, nearest=3, farthest=6, budget=10, batch=2,
)  # fmt: skip


def table(out: Path, config: PlanningConfig = CONFIG, **worlds: Any) -> PlanningReport:
    named = {name: Worlds(world) for name, world in (worlds or {"exact": ToyWorld(ARENA)}).items()}
    return planning_table(named, config, out, make_env=lambda: ToyEnv(ARENA), explorer=WALKER)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[PlanningReport, Path]:
    out = tmp_path_factory.mktemp("table")
    return table(out, exact=ToyWorld(ARENA), drifting=ToyWorld(ARENA, noise=200.0)), out


def cell(report: PlanningReport, row: str, place: int = 0) -> Cell:
    return report.cells[[str(r) for r in report.rows].index(row)][place]


def test_exact_planning_and_the_oracle_reach_what_chance_does_not(made: tuple[PlanningReport, Path]) -> None:
    report, _ = made
    names = ["random", "oracle", "cem, video, exact", "cem, video, drifting"]
    assert [str(row) for row in report.rows] == names
    for place in range(2):
        reached = [sum(e.reached for e in cell(report, name, place).episodes) for name in names]
        assert reached[1] == reached[2] == 4 and reached[0] < 4 and reached[3] < 4
    planned = cell(report, names[2])
    assert planned.seconds > 0 and planned.model_steps > 0 and planned.candidates == 24
    assert cell(report, "oracle").seconds == 0 == cell(report, "oracle").candidates


def test_all_rows_try_the_same_goals_and_gains_are_counted_goal_by_goal(made: tuple[PlanningReport, Path]) -> None:
    report, _ = made
    for place in range(2):
        assert len({tuple(e.map_seed for e in row[place].episodes) for row in report.cells}) == 1
        ours, theirs = cell(report, "cem, video, exact", place), cell(report, "cem, video, drifting", place)
        gain = report.gain(3, place)
        expected = np.mean([a.reached - b.reached for a, b in zip(ours.episodes, theirs.episodes, strict=True)])
        assert gain is not None and gain.estimate == pytest.approx(expected) and gain.low <= expected <= gain.high
    assert report.gain(0, 0) is None is report.gain(2, 0)


def test_the_table_is_written_as_numbers_and_as_text(made: tuple[PlanningReport, Path]) -> None:
    report, out = made
    data = json.loads((out / "planning.json").read_text(), parse_constant=pytest.fail)
    near = data["table"][1]["goals"]["near"]
    assert near["success"]["estimate"] == 1 and len(near["episodes"]) == 4
    text = (out / "planning.md").read_text()
    assert text == f"{report}\n"
    line = next(line for line in text.splitlines() if line.startswith("| oracle"))
    columns = [part.strip() for part in line.strip("|").split("|")]
    assert columns[1] == str(wilson(4, 4)) and len(columns) == 8
    steps = np.mean([e.steps for e in cell(report, "oracle").episodes])
    assert columns[2].startswith(f"{steps:.1f} ")


def test_what_is_done_is_not_done_again(made: tuple[PlanningReport, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    report, out = made

    def never(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("an episode was acted again")

    with monkeypatch.context() as patch:
        # The package shows the function under the module's name.
        patch.setattr(sys.modules["worldloop.evaluation.planning_table"], "execute", never)
        again = table(out, exact=ToyWorld(ARENA), drifting=ToyWorld(ARENA, noise=200.0))
        assert again.cells == report.cells
        with pytest.raises(AssertionError, match="acted again"):
            table(out, replace(CONFIG, budget=9))
        with pytest.raises(AssertionError, match="acted again"):
            table(out, replace(CONFIG, solvers=("mppi",)))


def test_a_damaged_cell_is_made_again(tmp_path: Path) -> None:
    config = replace(CONFIG, baselines=("oracle",), solvers=(), places=("near",), episodes=2)
    first = table(tmp_path, config)
    (file,) = (tmp_path / "cells").iterdir()
    file.write_text(file.read_text()[:40])
    assert table(tmp_path, config).cells == first.cells


@pytest.mark.parametrize(("fixed", "each"), [(0.0, 0.01), (0.5, 0.002), (0.1, 0.05)])
def test_as_many_candidates_are_taken_as_fit_into_the_time(fixed: float, each: float) -> None:
    asked: list[int] = []

    def measure(n: int) -> float:
        asked.append(n)
        return fixed + each * n

    found = candidates_for(1.5, measure)
    assert found.seconds == pytest.approx(fixed + each * found.candidates)
    assert abs(found.seconds / 1.5 - 1) < 0.15 and len(asked) <= 6


def test_where_even_the_fewest_take_too_long_they_are_taken_and_their_time_told() -> None:
    assert candidates_for(1.0, lambda n: 5.0 * n, least=4).seconds == 20.0
    assert candidates_for(1.0, lambda n: 1e-9 * n, most=64).candidates == 64
    with pytest.raises(ConfigError, match="above 0"):
        candidates_for(0.0, lambda n: 1.0)


def test_rows_get_the_candidates_that_fit(tmp_path: Path) -> None:
    config = replace(CONFIG, baselines=(), places=("near",), episodes=2, seconds_per_action=0.02)
    report = table(tmp_path, config)
    planned = report.cells[0][0]
    assert planned.candidates != CONFIG.candidates and planned.candidates >= CONFIG.elites
    assert f"| {planned.candidates} |" in str(report)


def test_names_become_planners() -> None:
    video, state = ToyWorld(ARENA), ToyWorld(ARENA)
    search = Search("cem", horizon=4, candidates=10, iterations=3, elites=2)
    assert isinstance(search.planner(), CEM)
    assert isinstance(replace(search, solver="gradient").planner(), GradientPlanner)
    tree = replace(search, solver="tree-search").planner()
    assert isinstance(tree, TreeSearch) and tree.expansions == 30
    assert Worlds(video, state).set_up("video", search)[0] is video
    assert Worlds(video, state).set_up("state", search)[0] is state
    place, planner = Worlds(video, state).set_up("draft", search)
    assert place is video and isinstance(planner, DraftThenRefine) and planner.draft is state
    with pytest.raises(ConfigError, match="in state space too"):
        Worlds(video).set_up("state", search)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"places": ("above",)}, "place is one of straight, near"),
        ({"solvers": ("cem", "cem")}, "asked for once; got cem, cem"),
        ({"baselines": ("luck",)}, "baseline is one of random, oracle"),
        ({"solvers": (), "baselines": ()}, "needs a place for goals, and a solver"),
        ({"goal": "index"}, "place is 'behind', not 'near'"),
    ],
)
def test_contradictory_tables_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(CONFIG, **change)


def test_cells_survive_their_file() -> None:
    episodes = (Episode(7, True, 3, 4, 50.0, 60.0, 10.0, 5, 9), Episode(8, False, 10, 6, 70.0, 90.0, 30.0, None, None))
    made = Cell(episodes, 0.5, 20.0, 0.0, 12)
    assert Cell.from_json(json.loads(json.dumps(asdict(made)))) == made
    assert made.success() == wilson(1, 2) and made.steps(0).estimate == 3
    told = made.difficulty(0)
    assert [told[name].estimate for name in ("known_way", "walk", "unseen", "ago")] == [5, 75, 5, 9]


# Policies that learn from recorded walks


@pytest.fixture(scope="module")
def walks(tmp_path_factory: pytest.TempPathFactory) -> TrainingCache:
    return recorded(tmp_path_factory.mktemp("walks"), range(8))


def recorded(out: Path, maps: range) -> TrainingCache:
    """Walks of thirty frames, each in a direction of its own: a walker that always goes on as it went."""
    split = "train" if maps[0] < 100_000 else "validation"
    info = DatasetInfo("toy", {}, ARENA.frame_size, KEYS, split)
    writer = DatasetWriter.create(out, info)
    for map_seed in maps:
        rng = np.random.default_rng(map_seed)
        pose, key = torch.tensor([[*rng.uniform(300, 500, 2), 0, rng.uniform(-3, 3), 0]]), 1 + map_seed % 6
        poses, actions = [pose], [0]
        for _ in range(29):
            poses.append(ARENA.arrive(poses[-1], torch.tensor([key])))
            actions.append(key)
        track = torch.cat(poses)
        n = len(track)
        writer.add(
            Recorded(
                frames=ARENA.picture(ARENA.latents(track)).numpy(), actions=np.array(actions), poses=track.numpy(),
                rewards=np.zeros(n, np.float32), terminated=np.zeros(n, bool), truncated=np.zeros(n, bool),
                collided=np.zeros(n, bool), success=np.zeros(n, bool), map_seed=map_seed,
            )
        )
    return TrainingCache.of(open_dataset(out, purpose="report"))


def test_hindsight_goals_are_later_frames_of_the_same_episode() -> None:
    lengths = np.array([3, 1, 10])
    now, goal = hindsight_pairs(lengths, 4, 2000, np.random.default_rng(0))
    episode = np.repeat([0, 1, 2], lengths)
    assert (episode[now] == episode[goal]).all() and set(goal - now) == {1, 2, 3, 4} and 3 not in now
    assert set(now[goal == now + 1]) == {0, 1, *range(4, 13)}
    now, goal = hindsight_pairs(lengths, 1, 100, np.random.default_rng(0))
    assert (goal == now + 1).all()


@pytest.mark.parametrize("kind", ["inverse-dynamics", "cloning"])
def test_a_policy_learns_which_action_was_taken(kind: Any, walks: TrainingCache, tmp_path: Path) -> None:
    world = ToyWorld(ARENA)
    config = ImitationConfig(kind, horizon=5, steps=600, batch_size=64, width=64, rate=3e-3)
    agent = imitate(world, walks, config, tmp_path)
    ahead = 1 if kind == "inverse-dynamics" else 5
    now, goal = hindsight_pairs(walks.episode_lengths, ahead, 300, np.random.default_rng(5))
    with torch.no_grad():
        chosen = agent.head(world.encode(walks.frames[now]), world.encode(walks.frames[goal])).argmax(1).numpy()
    taken = walks.actions[now + 1]
    most_common = np.bincount(taken).max() / len(taken)
    assert (chosen == taken).mean() > most_common + 0.25


def test_a_learned_policy_is_kept_and_learned_anew_for_other_data(walks: TrainingCache, tmp_path: Path) -> None:
    world, config, told = ToyWorld(ARENA), ImitationConfig(steps=3, batch_size=4, width=8), []

    def watch(stage: str, done: int, total: int) -> None:
        told.append(stage)

    first = imitate(world, walks, config, tmp_path, watch)
    assert told
    told.clear()
    again = imitate(world, walks, config, tmp_path, watch)
    assert not told
    assert all(torch.equal(a, b) for a, b in zip(first.head.parameters(), again.head.parameters(), strict=True))
    imitate(world, walks, replace(config, steps=4), tmp_path, watch)
    assert told


def test_a_learned_policy_acts_and_does_not_depend_on_its_neighbours(walks: TrainingCache, tmp_path: Path) -> None:
    world = ToyWorld(ARENA)
    agent = imitate(world, walks, ImitationConfig(steps=3, batch_size=4, width=8), tmp_path)
    tasks: list[GoalTask] = sample_goals(ToyEnv(ARENA), WALKER, KEYS, range(100_000, 100_003), context=2, steps=(3, 6))
    runs = [
        execute(agent, tasks, [ToyEnv(ARENA) for _ in range(n)], reached=Reached(), budget=4) for n in (1, 3)
    ]
    assert [[int(a) for a in t.actions] for t in runs[0]] == [[int(a) for a in t.actions] for t in runs[1]]


def test_held_out_maps_and_other_actions_are_not_learned_from(walks: TrainingCache, tmp_path: Path) -> None:
    validation = recorded(tmp_path / "validation", range(100_000, 100_001))
    with pytest.raises(DataError, match=r"training maps alone; .* holds map 100000"):
        imitate(ToyWorld(ARENA), validation, ImitationConfig(), tmp_path)
    with pytest.raises(ConfigError, match="the world's actions and frames"):
        imitate(ToyWorld(ToyArena(frame_size=(18, 24))), walks, ImitationConfig(), tmp_path)
