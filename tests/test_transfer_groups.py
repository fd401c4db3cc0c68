"""`evaluate_transfer`: interrupted, it goes on to the same end; how long decisions take; who plans."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_agent import small_agent, small_world
from test_agents_acting import ARENA, Straight, TaskEnv, agent
from toy_world import KEYS, ToyWorld

from worldloop.agents.planning import planning_agent
from worldloop.errors import ConfigError
from worldloop.evaluation.acting_time import Spread, Timed
from worldloop.evaluation.transfer import RandomActor, TransferConfig, TransferReport, evaluate_transfer, play
from worldloop.evaluation.transfer_actors import AgentPlanning, cast_of
from worldloop.evaluation.transfer_groups import Played
from worldloop.planning import CEM, MPC, MPPI, PolicySearch, Reward, TerminalValue

CONFIG = TransferConfig(tasks=("find-near",), episodes=11, envs=3, seed=3)


class Breaks:
    """Another actor, until its n-th call."""

    def __init__(self, actor: Any, calls: int) -> None:
        self.actor, self.left, self.calls = actor, calls, 0

    def predict(self, *arguments: Any) -> Any:
        self.calls += 1
        if self.calls > self.left:
            raise KeyboardInterrupt
        return self.actor.predict(*arguments)


def tried(actor: Any, out: Path | None, identity: str = "a", config: TransferConfig = CONFIG) -> TransferReport:
    return evaluate_transfer(
        ToyWorld(ARENA), {"actor": actor}, config, out, identities={"actor": identity},
        make_env=lambda task: TaskEnv(ARENA, max_episode_steps=60),
    )  # fmt: skip


def test_an_interrupted_test_goes_on_to_the_same_end(tmp_path: Path) -> None:
    # It goes by what it remembers of the group.
    acts = partial(RandomActor, KEYS, 1)
    whole = tried(acts(), None)
    assert len({(p.success, p.steps) for p in whole.episodes["find-near"]["actor"]}) > 3
    calls = Breaks(acts(), 10_000)
    tried(calls, None)
    broken = Breaks(acts(), calls.calls // 2)
    with pytest.raises(KeyboardInterrupt):
        tried(broken, tmp_path)
    rest = Breaks(acts(), 10_000)
    report = tried(rest, tmp_path)
    assert report.episodes == whole.episodes
    # What was lost are the calls of the group in flight, no more than an episode is long.
    lost = broken.left + rest.calls - calls.calls
    assert 0 <= lost <= 60 and rest.calls < calls.calls
    nothing = Breaks(acts(), 0)
    assert str(tried(nothing, tmp_path)) == str(report) and not nothing.calls


def test_what_another_actor_or_another_test_left_there_is_not_taken_for_this_one(tmp_path: Path) -> None:
    tried(agent(), tmp_path)
    other = tried(Straight(), tmp_path, "b")
    assert other.episodes == tried(Straight(), None).episodes
    longer = replace(CONFIG, episodes=12)
    assert tried(Straight(), tmp_path, "b", longer).episodes == tried(Straight(), None, config=longer).episodes


def test_who_cannot_be_told_from_others_is_played_from_the_start(tmp_path: Path) -> None:
    def once() -> int:
        actor = Breaks(Straight(), 10_000)
        evaluate_transfer(
            ToyWorld(ARENA), {"actor": actor}, CONFIG, tmp_path, make_env=lambda task: TaskEnv(ARENA, None)
        )
        return actor.calls

    assert once() == once() > 0


def test_the_time_of_an_action_is_the_time_of_its_call_shared_among_the_worlds(tmp_path: Path) -> None:
    class Slow(Straight):
        def predict(self, *arguments: Any) -> Any:
            time.sleep(0.03)
            return super().predict(*arguments)

    row = next(row for row in tried(Slow(), tmp_path, config=replace(CONFIG, episodes=6)).rows if row.name == "actor")
    assert 0.01 <= row.seconds.median < 0.02 and row.seconds.low <= row.seconds.median <= row.seconds.high
    assert json.loads((tmp_path / "transfer.json").read_text())["rows"][0]["seconds"]["median"] == row.seconds.median


def test_a_spread_is_the_median_and_the_quartiles() -> None:
    assert Spread.of([5.0, 1, 2, 4, 3]) == Spread(3.0, 2.0, 4.0)
    assert str(Spread(0.0123, 0.01, 0.02)) == "0.012 (0.01 to 0.02)"


def test_chance_differs_from_group_to_group(tmp_path: Path) -> None:
    actor = RandomActor(ToyWorld(ARENA).actions)
    drawn = [
        actor.predict({"frame": np.zeros((8, 1, 1, 3)), "pose": np.full((8, 5), place)})[0].tolist() for place in (0, 1)
    ]
    assert drawn[0] != drawn[1]


def test_who_is_compared_is_compared_map_by_map() -> None:
    def played(*results: tuple[bool, float, int]) -> list[Played]:
        return [Played(7 + i, *result) for i, result in enumerate(results)]

    episodes = {
        "a": played((True, 1.0, 4), (False, -0.2, 9), (False, -0.3, 9)),
        "b": played((True, 0.8, 8), (True, 0.6, 6), (False, -0.1, 9)),
        "real": played((True, 0.9, 5), (True, 0.7, 3), (True, 0.5, 2)),
        "random": played((False, 0.0, 9), (False, 0.0, 9), (False, 0.0, 9)),
    }
    report = TransferReport(TransferConfig(tasks=("find-near",), episodes=3), (), {"find-near": episodes})
    assert report.compare("find-near", "a", "real").estimate == pytest.approx(-2 / 3)
    assert report.compare("find-near", "a", "real", "reward").estimate == pytest.approx((0.1 - 0.9 - 0.8) / 3)
    # Steps count on the first map alone, where both came to an end.
    steps = report.compare("find-near", "a", "real", "steps")
    assert (steps.estimate, steps.n) == (-1, 1)
    both = report.compare("find-near", ("a", "b"), "real", "reward")
    assert both.estimate == pytest.approx((0.0 - 0.5 - 0.7) / 3) and both.low < both.estimate < both.high
    assert report.compare("find-near", ("a", "b"), ("real",), "steps").estimate == pytest.approx((1 + 3) / 2)
    assert not report.compare("find-near", "a", "random", "steps").n
    first, second, together = report.beside(["real"]).splitlines()
    assert first.startswith("find-near a minus real: success -0.667 [") and "steps -1.000 [" in first
    assert second.startswith("find-near b minus real") and "reward -0.400" in together
    assert together.startswith("find-near (a, b) minus real: success -0.500")
    assert report.difference("find-near", "a", ("random",)).endswith("steps –")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("agent")
    return small_agent(root / "agent", small_world(root / "world"))


def test_an_agent_acts_in_three_ways_in_the_rooms(saved: Path, tmp_path: Path) -> None:
    planning = AgentPlanning(add=True, horizon=2, candidates=6, iterations=1, elites=2, proposals=2)
    cast = cast_of({"mine": saved}, planning)
    assert list(cast.actors) == ["mine: policy", "mine: planning", "mine: both"]
    _, alone, both = cast.actors.values()
    assert isinstance(alone, MPC) and isinstance(both, MPC)
    assert alone.world.config.imagination == both.world.config.imagination == "state"  # type: ignore[attr-defined]
    assert isinstance(both.solver, MPPI) and both.solver.policy is not None and both.solver.proposals == 2
    terms = [type(term) for _, term in both.objective.terms]  # type: ignore[attr-defined]
    assert TerminalValue in terms and not alone.objective.needs_vectors
    config = TransferConfig(tasks=("find-near",), episodes=2, max_steps=4, envs=2)
    report = evaluate_transfer(cast.world, cast.actors, config, tmp_path, identities=cast.identities)
    assert [row.name for row in report.rows] == [*cast.actors, "random"]
    assert all(row.seconds.median > 0 for row in report.rows)
    assert len({cast.identities[name] for name in cast.actors}) == 3
    more = cast_of({"mine": saved}, replace(planning, horizon=3)).identities
    alike = [more[name] == cast.identities[name] for name in cast.actors]
    assert alike == [True, False, False]
    assert isinstance(replace(planning, solver="cem").planner(0), CEM)
    own = cast_of({"mine": saved}, replace(planning, solver="policy", temperature=0.3))
    assert list(own.actors) == ["mine: policy", "mine: both"]
    assert own.identities["mine: policy"] == cast.identities["mine: policy"]
    solver = own.actors["mine: both"].solver  # type: ignore[attr-defined]
    assert isinstance(solver, PolicySearch)
    assert (solver.horizon, solver.candidates, solver.elites, solver.temperature) == (2, 6, 2, 0.3)
    assert evaluate_transfer(own.world, own.actors, config).rows[1].name == "mine: both"
    drawn = replace(planning, imagination="video", futures=3, sampler="multistep", denoising_steps=4, motions="drawn")
    luck = cast_of({"mine": saved}, drawn).actors["mine: both"]
    assert isinstance(luck, MPC) and luck.solver.futures == 3
    imagined = luck.world.config  # type: ignore[attr-defined]
    assert (imagined.sampler, imagined.denoising_steps, imagined.motions) == ("multistep", 4, "drawn")
    few = replace(planning, solver="policy", candidates=2, elites=8, futures=3).planner(0, own.actors["mine: policy"])  # type: ignore[arg-type]
    assert isinstance(few, PolicySearch) and (few.elites, few.futures) == (2, 3)
    with pytest.raises(ConfigError, match="takes a policy"):
        replace(planning, solver="policy").planner(0)
    with pytest.raises(ConfigError, match="A solver is one of mppi, cem, policy"):
        replace(planning, solver="luck").planner(0)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="at least one agent"):
        cast_of({}, planning)


def test_planning_alone_sees_no_goal_beyond_its_horizon_and_a_critic_does() -> None:
    """In the exact toy world, with the critic that knows how far the goal is."""
    world = ToyWorld(ARENA)
    knows = agent()

    class Near:
        def value(self, vectors: Any) -> Any:
            places = vectors[:, :2] * ARENA.size
            return 0.9 ** ((places - places.new_tensor(ARENA.goal)).norm(dim=-1) / 25)

    planning = AgentPlanning(horizon=3, candidates=24, iterations=3)
    alone = planning_agent(world, 0.9, planning)
    both = MPC(world, planning.planner(0, knows), Reward(0.9) + TerminalValue(Near(), 0.9))
    maps = list(range(100_000, 100_008))
    solved = [
        sum(p.success for p in play(mpc, [TaskEnv(ARENA, max_episode_steps=15) for _ in range(4)], maps, 0, True))
        for mpc in (alone, both)
    ]
    assert solved[1] == 8 > solved[0], solved


@pytest.mark.parametrize("who", ["agent", "planner"])
def test_who_is_done_is_thought_for_no_more_and_nothing_else_changes(who: str) -> None:
    """The same actor with and without `keep`, and a clock around it: the same episodes, from fewer observations."""
    world = ToyWorld(replace(ARENA), noise=2.0)

    def make() -> Any:
        if who == "agent":
            return agent()
        planning = AgentPlanning(horizon=4, candidates=12, iterations=2, elites=4, replan_interval=2)
        return planning_agent(world, 0.9, planning, replan_interval=2, seed=4)

    class Watched:
        """Lets nothing through but `predict`, and counts what it serves."""

        def __init__(self, actor: Any) -> None:
            self.actor, self.served = actor, []

        def predict(self, observation: Any, *rest: Any) -> Any:
            assert len(observation["frame"]) == len(rest[1])
            self.served.append(len(observation["frame"]))
            return self.actor.predict(observation, *rest)

    class Narrowed(Watched):
        def keep(self, state: Any, rows: Any) -> Any:
            return self.actor.keep(state, rows)

    maps = list(range(100_000, 100_009))
    whole, fewer = Watched(make()), Narrowed(make())
    played = [
        play(Timed(actor), [TaskEnv(ARENA, max_episode_steps=10 + 6 * i) for i in range(4)], maps, 0, False)
        for actor in (whole, fewer)
    ]
    assert played[0] == played[1]
    lengths = [episode.steps for episode in played[0]]
    assert len(set(lengths)) > 1 and set(whole.served) == {4}
    assert fewer.served[-1] < 4 and fewer.served == sorted(fewer.served, reverse=True)
    assert sum(fewer.served) == sum(lengths) < sum(whole.served)
    with pytest.raises(ValueError, match="Nothing has been seen"):
        planning_agent(world, 0.9, AgentPlanning()).keep(None, [0])
