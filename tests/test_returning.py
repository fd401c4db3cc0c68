"""Going out and coming back: who wanders knows nothing, who plans its way knows what its world remembers."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import worldloop
from small_agent import small_agent, small_world
from toy_world import AXES, KEYS, STEP, ToyArena, ToyEnv, ToyWorld, picture_at

from worldloop.agents import returning
from worldloop.agents.returning import Outing, ReturningAgent
from worldloop.envs.doom_rooms.env import DoomRoomsEnv
from worldloop.envs.doom_rooms.layout import generate
from worldloop.envs.doom_rooms.tasks import Assignment
from worldloop.errors import ConfigError
from worldloop.evaluation.transfer import TransferConfig, evaluate_transfer, play
from worldloop.evaluation.transfer_actors import WITH_MEMORY, WITHOUT, AgentPlanning, Returning, cast_of
from worldloop.planning import CEM, Plan, Planner
from worldloop.planning.planner import Question
from worldloop.world_models.config import preset
from worldloop.world_models.perception.state_encoder import StateConfig
from worldloop.world_models.storage import save_world
from worldloop.world_models.world_model import WorldModel

ARENA = ToyArena(size=500.0, goal=(-900.0, -900.0))
STARTS = [[60.0, 70, 0, 0.5, 0], [250, 250, 0, -2, 0], [420, 90, 0, 3, 0], [30, 480, 0, 1, 0]]
FEW = CEM(horizon=4, candidates=8, iterations=2, elites=4)


@dataclass
class Life:
    """What T steps in B toy worlds were like: poses (T + 1, B, 5), actions (T, B, ...), and what was known then."""

    poses: Any
    actions: Any
    known: list[Outing]


def live(agent: ReturningAgent, starts: Sequence[Any], steps: int, arena: ToyArena = ARENA) -> Life:
    envs = [ToyEnv(arena) for _ in starts]
    seen = [env.reset(options={"pose": start}) for env, start in zip(envs, starts, strict=True)]
    state, poses, actions, known = None, [np.stack([info["pose"] for _, info in seen])], [], []
    for _ in range(steps):
        chosen, state = agent.predict({"frame": np.stack([frame for frame, _ in seen]), "pose": poses[-1]}, state)
        known.append(state)
        actions.append(np.array(chosen))
        stepped = [env.step(action) for env, action in zip(envs, chosen, strict=True)]
        seen = [(step[0], step[4]) for step in stepped]
        poses.append(np.stack([info["pose"] for _, info in seen]))
    return Life(np.stack(poses), np.stack(actions), known)


@dataclass(frozen=True)
class Spy(Planner):
    """Another planner, and what it was asked and answered."""

    planner: Planner
    asked: list[tuple[Question, Plan]] = field(default_factory=list)

    @property
    def horizon(self) -> int:
        return self.planner.horizon

    def answer(self, question: Question) -> Plan:
        plan = self.planner.answer(question)
        self.asked.append((question, plan))
        return plan

    def of(self, seed: int) -> list[tuple[int, Any, Any]]:
        """Steps walked, goal and planned actions of the world of that seed, plan by plan."""
        return [
            (int(q.state.step[row]) - 1, q.objective.latents[row], plan.actions[row].numpy())  # type: ignore[attr-defined]
            for q, plan in self.asked
            for row, other in enumerate(q.state.seeds.tolist())
            if other == seed
        ]


def turned(poses: Any, leave: float, least: int) -> list[int]:
    """Steps after which each world is far enough from its start and has walked long enough."""
    away = np.linalg.norm((poses - poses[:1])[..., :2], axis=-1)
    return [next(t for t in range(len(away)) if t >= least and away[t, b] >= leave) for b in range(away.shape[1])]


@pytest.mark.parametrize("spec", [KEYS, AXES], ids=["keys", "axes"])
def test_agents_with_different_worlds_walk_out_alike_and_by_another_seed_differently(spec) -> None:
    arena = replace(ARENA, actions=spec)
    exact = live(ReturningAgent(ToyWorld(arena), FEW, leave=150, least_steps=12), STARTS, 50, arena)
    blurred = ToyWorld(arena, noise=60.0, context=2)
    other = live(ReturningAgent(blurred, replace(FEW, seed=1), 3, leave=150, least_steps=12), STARTS, 50, arena)
    ends = turned(exact.poses, 150, 12)
    assert len(set(ends)) > 2 and max(ends) < 50
    for b, end in enumerate(ends):
        assert np.array_equal(exact.poses[: end + 1, b], other.poses[: end + 1, b])
        assert not np.array_equal(exact.poses[:, b], other.poses[:, b]), "coming back they differ"
    luck = live(ReturningAgent(ToyWorld(arena), FEW, leave=150, least_steps=12, seed=1), STARTS, 50, arena)
    assert not np.array_equal(luck.poses[: min(ends)], exact.poses[: min(ends)])


def way(action: Any) -> str:
    """Which way one action of the toy worlds goes: forward, left or right."""
    if np.ndim(action):
        assert sorted(np.abs(action)) == [0, 0, 1]
        return "left" if action[2] > 0 else "right" if action[2] < 0 else "forward"
    return {1: "forward", 5: "left", 6: "right"}[int(action)]


@pytest.mark.parametrize("spec", [KEYS, AXES], ids=["keys", "axes"])
def test_who_is_blocked_turns_one_way_and_who_is_not_walks_on(spec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(returning, "_ANYWAY", 0.0)
    arena, rng = replace(ARENA, actions=spec, size=200.0), np.random.default_rng(0)
    starts = [[*rng.uniform(0, 200, 2), 0, rng.uniform(-3, 3), 0] for _ in range(12)]
    life = live(ReturningAgent(ToyWorld(arena), FEW, leave=1e6), starts, 120, arena)
    runs = []
    for b in range(len(starts)):
        did = [way(action) for action in life.actions[:, b]]
        moved = np.linalg.norm(np.diff(life.poses[:, b, :2], axis=0), axis=-1)
        assert did[0] == "forward"
        for t in range(119):
            if did[t] == "forward":
                assert (did[t + 1] != "forward") == (moved[t] < STEP / 2), (b, t)
        # The last run may have been cut off.
        runs += [(name, len(list(run))) for name, run in groupby(did)][:-1]
    turns = {run for run in runs if run[0] != "forward"}
    assert turns == {(name, n) for name in ("left", "right") for n in range(2, 7)}


def test_now_and_then_it_turns_where_nothing_is_in_the_way() -> None:
    open_ground = ToyArena(size=1e6, goal=(-900.0, -900.0))
    starts = [[5e5 + 100 * i, 5e5, 0, 0, 0] for i in range(16)]
    life = live(ReturningAgent(ToyWorld(open_ground), FEW, leave=1e6), starts, 300, open_ground)
    did = np.vectorize(way)(life.actions)
    ahead = did[:-1] == "forward"
    share = (did[1:] != "forward")[ahead].mean()
    assert 0.035 < share < 0.065, share


@pytest.mark.parametrize(("leave", "least"), [(150.0, 12), (120.0, 0), (200.0, 20)])
def test_plans_from_where_it_is_far_and_long_enough_gone_towards_its_own_first_frame(leave: float, least: int) -> None:
    spy, world = Spy(FEW), ToyWorld(ARENA, noise=5.0)
    life = live(ReturningAgent(world, spy, 2, leave, least), STARTS, 60)
    ends, last = turned(life.poses, leave, least), life.known[-1]
    assert last.turned_back.tolist() == ends and len(set(ends)) > 1
    for b, (end, start) in enumerate(zip(ends, STARTS, strict=True)):
        plans = spy.of(int(last.world.seeds[b]))
        assert [step for step, _, _ in plans] == list(range(end, 60, 2))
        frame = world.encode(picture_at(ARENA, start)[None])[0]
        assert all(torch.equal(goal, frame) for _, goal, _ in plans)
        for step, _, actions in plans:
            assert np.array_equal(actions[:2][: 60 - step], life.actions[step : step + 2, b])
    # What it plans from has seen every frame on the way, in the order of the walk.
    for question, _ in spy.asked:
        for row, seed in enumerate(question.state.seeds.tolist()):
            b = last.world.seeds.tolist().index(seed)
            now = int(question.state.step[row]) - 1
            assert np.array_equal(question.state.poses[row].numpy(), life.poses[now - 3 : now + 1, b])


def test_the_rest_of_the_last_plan_competes_with_new_ones() -> None:
    spy = Spy(FEW)
    live(ReturningAgent(ToyWorld(ARENA), spy, 2, 120.0, 0), STARTS, 40)
    before: dict[int, Plan] = {}
    fresh = 0
    for question, plan in spy.asked:
        assert question.executed == 2
        for row, seed in enumerate(question.state.seeds.tolist()):
            known = question.previous
            if seed not in before:
                fresh += 1
                assert known is None or float(known.cost[row]) == math.inf
            else:
                assert known is not None and torch.equal(known.actions[row], before[seed].actions[0])
                assert torch.equal(known.elites[row], before[seed].elites[0])
                assert torch.equal(known.cost[row], before[seed].cost[0])
            before[seed] = Plan(**{k: v[row : row + 1] if torch.is_tensor(v) else v for k, v in vars(plan).items()})
    assert fresh == len(STARTS)


@pytest.mark.parametrize("spec", [KEYS, AXES], ids=["keys", "axes"])
def test_a_batch_acts_like_its_members_alone_though_one_of_them_begins_anew(spec) -> None:
    arena = replace(ARENA, actions=spec)

    def agent() -> ReturningAgent:
        return ReturningAgent(ToyWorld(arena, noise=5.0), FEW, leave=120.0, least_steps=5)

    def alone(start: Any, steps: int) -> tuple[list[Any], list[Any]]:
        env, state, actions, poses = ToyEnv(arena), None, [], []
        frame, info = env.reset(options={"pose": start})
        for _ in range(steps):
            action, state = agent().predict({"frame": frame, "pose": info["pose"]}, state)
            assert isinstance(action, int) == (spec is KEYS) and np.shape(action) == spec.shape
            actions.append(action)
            poses.append(info["pose"])
            frame, _, _, _, info = env.step(action)
        assert 0 <= int(state.turned_back[0]) < steps - 4
        return actions, poses

    again, steps, anew = [250.0, 480, 0, -1, 0], 70, 30
    envs = [ToyEnv(arena) for _ in STARTS]
    seen = [env.reset(options={"pose": start}) for env, start in zip(envs, STARTS, strict=True)]
    actor, state, actions = agent(), None, []
    for step in range(steps):
        begins = np.arange(len(STARTS)) == (1 if step == anew else -1)
        if step == anew:
            seen[1] = envs[1].reset(options={"pose": again})
        observation = {"frame": np.stack([f for f, _ in seen]), "pose": np.stack([i["pose"] for _, i in seen])}
        chosen, state = actor.predict(observation, state, begins)
        actions.append(chosen)
        stepped = [env.step(action) for env, action in zip(envs, chosen, strict=True)]
        seen = [(step[0], step[4]) for step in stepped]
    together = np.stack(actions)
    for b, start in enumerate(STARTS):
        expected, _ = alone(start, anew if b == 1 else steps)
        assert np.array_equal(together[: len(expected), b], np.stack(expected)), b
    expected, poses = alone(again, steps - anew)
    assert np.array_equal(together[anew:, 1], np.stack(expected))
    assert torch.equal(state.goal[1], ToyWorld(arena).encode(picture_at(arena, again)[None])[0])
    assert np.array_equal(state.start[1].numpy(), poses[0])


def test_where_an_episode_begins_nothing_is_left_of_the_one_before() -> None:
    world = ToyWorld(ARENA, noise=5.0)
    agent = ReturningAgent(world, FEW, leave=120.0, least_steps=5)
    life = live(agent, STARTS, 30)
    old = replace(life.known[-1], turns=torch.tensor([2, -3, 1, 4]))
    assert bool((old.turned_back >= 0).all())
    look = {"frame": np.stack([picture_at(ARENA, pose) for pose in life.poses[-1]]), "pose": life.poses[-1]}
    expected, fresh = agent.predict(look)
    actions, anew = agent.predict(look, old, np.ones(4, bool))
    assert np.array_equal(actions, expected) and anew.world.snapshot() == fresh.world.snapshot()
    for name in ("acted", "start", "goal", "turns", "turned_back"):
        assert torch.equal(getattr(anew, name), getattr(fresh, name)), name
    assert fresh.plan is None and anew.plan is not None and bool(anew.plan.cost.isinf().all())


class ReturnEnv(ToyEnv):
    """DoomRooms' task ``return``, judged by its own rules, in the toy arena."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        frame, info = super().reset(seed=seed)
        self.task = Assignment("return", "near", shaping=False)
        self.task.begin(LAYOUT, *info["pose"][[0, 1, 3]])
        return frame, info | {"success": False}

    def step(self, action: Any) -> Any:
        frame, _, _, truncated, info = super().step(action)
        judged = self.task.judge(LAYOUT, *info["pose"][[0, 1, 3]])
        return frame, judged.reward, judged.success, truncated, info | {"success": judged.success}


LAYOUT = generate(0)
"""Any: without shaping, the task does not look at it."""


class Stands:
    """Never moves."""

    def predict(self, observation: Any, state: Any = None, *more: Any) -> Any:
        return np.zeros(len(observation["frame"]), np.int64), state


def test_with_an_exact_world_it_comes_back_and_with_a_blind_one_it_does_not(tmp_path: Path) -> None:
    class Blind(ToyWorld):
        """Imagines the same picture wherever one goes."""

        def imagine(self, state: Any, actions: Any, pose: Any = None) -> Any:
            after, step = super().imagine(state, actions, pose)
            return after, replace(step, latents=torch.zeros_like(step.latents))

    solver = CEM(horizon=12, candidates=32, iterations=2)
    actors = {
        "sees": ReturningAgent(ToyWorld(ARENA), solver),
        "blind": ReturningAgent(Blind(ARENA), solver),
        "stands": Stands(),
    }
    config = TransferConfig(tasks=("return",), episodes=8, envs=4)
    report = evaluate_transfer(
        ToyWorld(ARENA), actors, config, tmp_path, make_env=lambda task: ReturnEnv(ARENA, max_episode_steps=200)
    )  # fmt: skip
    wins = {name: [p.success for p in played] for name, played in report.episodes["return"].items()}
    assert all(wins["sees"]) and sum(wins["blind"]) <= 2, wins
    assert min(p.steps for p in report.episodes["return"]["sees"]) > 30
    for name, other in (("sees", "blind"), ("blind", "sees"), ("sees", "sees")):
        gain = report.compare("return", name, other)
        assert gain.estimate == pytest.approx(np.mean(wins[name]) - np.mean(wins[other])) and gain.n == 8
        assert gain.low <= gain.estimate <= gain.high
    assert report.compare("return", "sees", "stands").low == 1
    lines = {line.split("success")[0].split()[1]: line for line in str(report).splitlines()}
    assert "steps –" in lines["stands"] and "nan" not in str(report)
    steps = np.mean([p.steps for p in report.episodes["return"]["sees"]])
    assert f"steps {steps:.2f} [" in lines["sees"]


def test_what_does_not_fit_is_refused_in_a_sentence() -> None:
    world = ToyWorld(ARENA)
    agent = ReturningAgent(world, FEW)
    with pytest.raises(ConfigError, match="horizon of 4; got 5"):
        ReturningAgent(world, FEW, 5)
    with pytest.raises(ConfigError, match=r"got 0\.0 and 30"):
        ReturningAgent(world, FEW, leave=0.0)
    with pytest.raises(ConfigError, match="got 5 and -1"):
        ReturningAgent(world, FEW, leave=5, least_steps=-1)
    left_only = replace(KEYS, names=KEYS.names[:-1], motion=KEYS.motion[:-1])
    with pytest.raises(ConfigError, match="turns both ways; got noop, forward"):
        ReturningAgent(ToyWorld(replace(ARENA, actions=left_only)), FEW)
    look = {"frame": np.stack([picture_at(ARENA, start) for start in STARTS]), "pose": np.array(STARTS)}
    with pytest.raises(ValueError, match=r"frame and its pose.*\['pose'\]"):
        agent.predict({"pose": look["pose"]})
    _, state = agent.predict(look)
    with pytest.raises(ValueError, match="Remembered are 4 worlds; seen are 4, begun 2"):
        agent.predict(look, state, [True, False])
    with pytest.raises(ValueError, match="Remembered are 4 worlds; seen are 3"):
        agent.predict({name: x[:3] for name, x in look.items()}, state)


def retrieving_world(path: Path, frame_size: tuple[int, int] | None = None) -> Path:
    """Write a world of a few thousand parameters, as they were drawn, that has a memory."""
    torch.manual_seed(0)
    shape = preset("nano", DoomRoomsEnv().action_spec, frame_size)
    cdit = replace(shape.cdit, depth=1, width=32, heads=2, retrieved=(1, 2))
    save_world(WorldModel(replace(shape, cdit=cdit, state=StateConfig(width=8, rounds=1))), path, {})
    return path


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return retrieving_world(tmp_path_factory.mktemp("small") / "world")


def test_two_of_one_world_come_back_one_with_its_memory(small: Path, tmp_path: Path) -> None:
    settings = Returning(add=True, world=str(small), horizon=2, candidates=4, iterations=1, elites=2)
    cast = cast_of({}, AgentPlanning(), returning=settings)
    assert list(cast.actors) == [WITH_MEMORY, WITHOUT]
    knows, forgets = (actor.world for actor in cast.actors.values())  # type: ignore[attr-defined]
    assert knows.retrieves > 0 == forgets.retrieves and cast.world is knows
    assert knows.config.imagination == forgets.config.imagination == "state"
    weights = zip(knows.state_dict().values(), forgets.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in weights)
    assert len(set(cast.identities.values())) == 2
    more = cast_of({}, AgentPlanning(), returning=replace(settings, horizon=3)).identities
    assert not set(more.values()) & set(cast.identities.values())
    # Both have seen all there was; one of them can look it up.
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 255, (7, 2, *knows.frame_size, 3), dtype=np.uint8)
    for actor, remembered in zip(cast.actors.values(), (7, None), strict=True):
        state = None
        for t, frame in enumerate(frames):
            pose = np.array([[100.0 + 25 * t, 100, 41, 0, 0], [100, 100.0 + 25 * t, 41, 1, 0]])
            _, state = actor.predict({"frame": frame, "pose": pose}, state)
        assert state.world.step.tolist() == [7, 7]
        memory = state.world.memory
        assert (None if memory is None else int(memory.slots()[1].sum(1)[0])) == remembered
    beside = cast_of({"mine": small_agent(tmp_path / "agent", small)}, AgentPlanning(), returning=settings)
    assert list(beside.actors) == ["mine", WITH_MEMORY, WITHOUT] == list(beside.identities)
    assert list(cast_of({"mine": tmp_path / "agent"}, AgentPlanning(), returning=Returning()).actors) == ["mine"]
    other = replace(settings, world=str(retrieving_world(tmp_path / "other", (32, 48))))
    with pytest.raises(ConfigError, match="see or act differently"):
        cast_of({"mine": tmp_path / "agent"}, AgentPlanning(), returning=other)
    with pytest.raises(ConfigError, match=r"with memory and without; .*forgetful has none"):
        replace(settings, world=str(small_world(tmp_path / "forgetful"))).cast()


def test_the_command_tries_both_and_says_what_memory_is_worth(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ("--returning.horizon", 2, "--returning.candidates", 4, "--returning.iterations", 1, "--returning.elites", 2)
    worldloop(
        "evaluate", "transfer", "--tasks", "return", "--returning.add", "--returning.world", small, *few,
        "--episodes", 2, "--max-steps", 60, "--envs", 2, "--out", tmp_path,
    )  # fmt: skip
    told = capsys.readouterr().out
    assert all(word in told for word in (WITH_MEMORY, WITHOUT, "random", "memory over none: "))
    report = json.loads((tmp_path / "transfer.json").read_text())
    assert [row["name"] for row in report["rows"]] == [WITH_MEMORY, WITHOUT, "random"]
    for words, said in (
        (("--tasks", "find-near", "--returning.add"), "give --tasks return"),
        (("--returning.add",), "give --tasks return"),
        (("--tasks", "return"), "at least one agent"),
        (("--tasks", "return", "--returning.add", "--returning.world", "nowhere"), "Unknown world 'nowhere'"),
        (("--tasks", "return", "--returning.add", "--returning.replan-interval", 13), "between 1 and the horizon"),
    ):
        with pytest.raises(AssertionError, match="ended with status 1"):
            worldloop("evaluate", "transfer", *words, "--out", tmp_path / "other")
        assert said in capsys.readouterr().err


def test_who_is_back_is_thought_for_no_more_and_the_others_come_back_alike() -> None:
    class Without:
        """The same agent, which nobody can ask to go on with fewer worlds."""

        def __init__(self, actor: ReturningAgent) -> None:
            self._actor = actor

        def predict(self, *asked: Any) -> Any:
            return self._actor.predict(*asked)

    agent = ReturningAgent(ToyWorld(ARENA, noise=2.0), CEM(horizon=12, candidates=32, iterations=2))
    maps = list(range(100_000, 100_006))
    fewer, whole = (
        play(actor, [ReturnEnv(ARENA, max_episode_steps=90 + 30 * i) for i in range(3)], maps, 0, True)
        for actor in (agent, Without(agent))
    )
    assert fewer == whole and len({episode.steps for episode in fewer}) > 2
