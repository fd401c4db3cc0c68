"""Agents at work: what they see and remember of the real world, files, planners, transfer, cloning."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from toy_world import AXES, KEYS, ToyArena, ToyEnv, ToyWorld, standing_at, walk

from worldloop.agents.actor_critic import ActorCritic, ActorCriticConfig
from worldloop.agents.agent import Agent, load_agent
from worldloop.agents.cloning import Recorded, clone_behaviour
from worldloop.agents.heads import HeadsConfig
from worldloop.errors import ConfigError, DataError, WorldFormatError
from worldloop.evaluation.transfer import RandomActor, TransferConfig, evaluate_transfer, play
from worldloop.planning import MPPI, Reward, TerminalValue, TreeSearch
from worldloop.rollouts.cache import TrainingCache
from worldloop.rollouts.episode import Episode
from worldloop.rollouts.metadata import DatasetInfo
from worldloop.rollouts.store import DatasetWriter, open_dataset
from worldloop.world_models.training.config import StageConfig
from worldloop.world_models.training.fit import Progress

ARENA = ToyArena(size=200.0, goal=(140.0, 140.0), goal_radius=30.0)
SMALL = ActorCriticConfig(HeadsConfig(width=16, members=2, bins=21))
PLACES = [[20.0, 30, 0, 0.5, 0], [80, 150, 0, -2, 0], [100, 90, 0, 3, 0]]


def agent(spec=KEYS, seed: int = 0, tokens=None) -> Agent:
    """One with a will of its own, though untrained."""
    torch.manual_seed(seed)
    config = replace(SMALL, heads=replace(SMALL.heads, tokens=tokens is not None))
    heads = ActorCritic(4, spec, config, tokens)
    for parameter in heads.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.5)
    return Agent(ToyWorld(replace(ARENA, actions=spec)), heads, seed)


def look(envs: list[ToyEnv], places=PLACES) -> dict[str, np.ndarray]:
    seen = [env.reset(options={"pose": place}) for env, place in zip(envs, places, strict=True)]
    return {"frame": np.stack([f for f, _ in seen]), "pose": np.stack([i["pose"] for _, i in seen])}


@pytest.mark.parametrize("spec", [KEYS, AXES], ids=["keys", "axes"])
@pytest.mark.parametrize("deterministic", [True, False])
def test_an_agent_decides_by_what_the_world_perceives_of_all_it_has_seen(spec, deterministic: bool) -> None:
    actor = agent(spec)
    arena = replace(ARENA, actions=spec)
    envs = [ToyEnv(arena) for _ in PLACES]
    observation, state = look(envs), None
    frames, poses, done = [observation["frame"]], [observation["pose"]], [np.zeros((3, *spec.shape), np.int64)]
    for _ in range(4):
        actions, state = actor.predict(observation, state, deterministic=deterministic)
        assert actions.shape == (3, *spec.shape)
        known = actor.world.observe(
            actor.begin(3).world, np.stack(frames, 1), np.stack(done, 1).astype(actions.dtype), np.stack(poses, 1)
        )
        vectors = actor.world.encode_state(known)
        assert torch.equal(vectors, actor.world.encode_state(state.world)) and torch.equal(state.world.step, known.step)
        if deterministic:
            with torch.no_grad():
                assert np.array_equal(actions, actor.heads.policy.best(vectors).numpy())
        steps = [env.step(a) for env, a in zip(envs, actions, strict=True)]
        observation = {"frame": np.stack([s[0] for s in steps]), "pose": np.stack([s[4]["pose"] for s in steps])}
        frames.append(observation["frame"])
        poses.append(observation["pose"])
        done.append(actions)


def test_one_world_acts_as_it_would_in_a_batch() -> None:
    actor = agent()
    observation = look([ToyEnv(ARENA) for _ in PLACES])
    together, _ = actor.predict(observation)
    for i in range(3):
        single, state = actor.predict({name: x[i] for name, x in observation.items()})
        assert isinstance(single, int) and single == together[i] and state.world.batch_size == 1


def test_where_an_episode_begins_what_was_before_is_forgotten_and_chance_is_another() -> None:
    actor = agent()
    envs = [ToyEnv(ARENA) for _ in PLACES]
    observation = look(envs)
    _, first = actor.predict(observation)
    _, second = actor.predict(observation, first, [False, True, False])
    assert second.world.step.tolist() == [2, 1, 2] and second.world.valid.sum(1).tolist() == [2, 1, 2]
    same = (second.world.seeds == first.world.seeds).tolist()
    assert same == [True, False, True]
    with pytest.raises(ValueError, match="episode_start is of 2"):
        actor.predict(observation, first, [True, False])


def test_observations_that_do_not_fit_are_refused() -> None:
    actor = agent()
    observation = look([ToyEnv(ARENA)], PLACES[:1])
    with pytest.raises(ValueError, match=r"frame and its pose.*\['frame'\]"):
        actor.predict({"frame": observation["frame"]})
    with pytest.raises(ConfigError, match=r"states of 7 numbers"):
        Agent(actor.world, ActorCritic(7, KEYS, SMALL))
    with pytest.raises(ConfigError, match="the world has"):
        Agent(actor.world, ActorCritic(4, AXES, SMALL))
    with pytest.raises(ConfigError, match="acts by vectors"):
        agent(AXES).probabilities(torch.zeros(1, 4))


@pytest.mark.parametrize("tokens", [None, (1, 2)], ids=["vectors", "tokens"])
@pytest.mark.parametrize("spec", [KEYS, AXES], ids=["keys", "axes"])
def test_a_saved_agent_comes_back_the_same(spec, tokens, tmp_path: Path) -> None:
    actor = agent(spec, tokens=tokens)
    actor.save(tmp_path / "a", {"who": "test"})
    again = load_agent(tmp_path / "a", actor.world)
    assert again.heads.config == actor.heads.config and again.heads.spec == spec and again.heads.tokens == tokens
    for (name, a), b in zip(
        actor.heads.state_dict().items(), again.heads.state_dict().values(), strict=True
    ):
        assert torch.equal(a, b), name
    assert {p.name for p in (tmp_path / "a").iterdir()} == {"agent.json", "weights.safetensors"}
    assert json.loads((tmp_path / "a" / "agent.json").read_text())["about"] == {"who": "test"}


def test_a_damaged_agent_or_another_world_is_refused(tmp_path: Path) -> None:
    actor = agent()
    actor.save(tmp_path)
    with pytest.raises(ConfigError, match="give world="):
        load_agent(tmp_path)
    with pytest.raises(ConfigError, match="the world has"):
        load_agent(tmp_path, ToyWorld(replace(ARENA, actions=AXES)))
    weights = (tmp_path / "weights.safetensors").read_bytes()
    (tmp_path / "weights.safetensors").write_bytes(weights[:900])
    with pytest.raises(WorldFormatError, match="cannot be read"):
        load_agent(tmp_path, actor.world)
    (tmp_path / "weights.safetensors").unlink()
    with pytest.raises(WorldFormatError, match="missing"):
        load_agent(tmp_path, actor.world)


def test_planners_take_an_agent_as_policy_prior_and_value() -> None:
    actor = agent()
    state = standing_at(actor.world, PLACES[0])
    objective = Reward(0.9) + TerminalValue(actor, 0.9)
    seeded = MPPI(horizon=3, candidates=8, elites=4, iterations=1, policy=actor, proposals=4)
    plan = seeded.plan(actor.world, state, objective)
    assert plan.actions.shape == (1, 3)
    tree = TreeSearch(horizon=3, prior=actor).plan(actor.world, state, objective)
    worth = actor.value(actor.world.encode_state(state))
    assert worth.shape == (1,) and bool(tree.cost.isfinite())
    likely = actor.probabilities(actor.world.encode_state(state))
    assert likely.shape == (1, KEYS.n) and float(likely.sum()) == pytest.approx(1)


class TaskEnv(ToyEnv):
    """Where an episode begins depends on map and seed alone."""

    def reset(self, *, seed=None, options=None):
        assert seed is not None and options is not None
        rng = np.random.default_rng([seed, options["map_seed"]])
        self.maps = [*getattr(self, "maps", []), options["map_seed"]]
        return super().reset(seed=seed, options={"pose": [*rng.uniform(0, 100, 2), 0, 0.7, 0]})


class Straight:
    """Walks up to the goal: turns towards it, then goes forward."""

    def predict(self, observation, state=None, episode_start=None, deterministic=True):
        actions = []
        for x, y, _, yaw, _ in observation["pose"]:
            off = np.angle(np.exp(1j * (np.arctan2(140 - y, 140 - x) - yaw)))
            actions.append(1 if abs(off) < np.pi / 16 + 1e-6 else 5 if off > 0 else 6)
        return np.array(actions), state


def test_every_map_is_played_once_and_a_free_environment_takes_the_next(tmp_path: Path) -> None:
    maps = list(range(100_000, 100_011))
    envs = [TaskEnv(ARENA, max_episode_steps=20) for _ in range(3)]
    told: list[int] = []
    played = play(Straight(), envs, maps, seed=5, deterministic=True, tell=told.append)
    assert [p.map_seed for p in played] == maps and told == list(range(1, 12))
    assert sorted(m for env in envs for m in env.maps) == maps
    assert all(p.success and p.reward == 1 and p.steps <= 14 for p in played)
    # One after the other it comes out the same.
    assert play(Straight(), [TaskEnv(ARENA, max_episode_steps=20)], maps, 5, True) == played
    assert len(play(Straight(), envs, maps[:2], 5, True)) == 2


def test_transfer_compares_on_the_same_maps_and_counts_what_chance_does_not(tmp_path: Path) -> None:
    world = ToyWorld(ARENA)
    config = TransferConfig(tasks=("find-near",), episodes=24, envs=5, seed=3)
    report = evaluate_transfer(
        world, {"straight": Straight(), "untrained": agent()}, config, tmp_path,
        make_env=lambda task: TaskEnv(ARENA, max_episode_steps=15),
    )  # fmt: skip
    by_name = {row.name: row for row in report.rows}
    assert set(by_name) == {"straight", "untrained", "random"}
    episodes = report.episodes["find-near"]
    assert len({tuple(p.map_seed for p in each) for each in episodes.values()}) == 1
    for name, row in by_name.items():
        wins = [p.success for p in episodes[name]]
        assert row.success.estimate == np.mean(wins) and row.success.n == 24
        assert row.gain.estimate == pytest.approx(np.mean(wins) - by_name["random"].success.estimate)
        assert row.reward.estimate == pytest.approx(np.mean([p.reward for p in episodes[name]]))
    assert by_name["straight"].success.estimate == 1 and by_name["random"].success.estimate < 0.7
    assert by_name["straight"].gain.low > 0
    assert json.loads((tmp_path / "transfer.json").read_text())["rows"][0]["name"] == "straight"
    assert len(str(report).splitlines()) == 3


def test_transfer_refuses_what_does_not_fit() -> None:
    world = ToyWorld(ARENA)
    with pytest.raises(ConfigError, match="the environment has"):
        evaluate_transfer(
            world, {}, TransferConfig(episodes=2), make_env=lambda task: TaskEnv(replace(ARENA, actions=AXES))
        )
    with pytest.raises(ConfigError, match="chance"):
        evaluate_transfer(world, {"random": RandomActor(KEYS)}, TransferConfig())
    with pytest.raises(ConfigError, match="not on 'train'"):
        TransferConfig(split="train")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="Tasks are"):
        TransferConfig(tasks=("fly",))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def walks(tmp_path_factory: pytest.TempPathFactory) -> TrainingCache:
    """Walkers who turn left in the west and go forward in the east."""
    path = tmp_path_factory.mktemp("data") / "train"
    writer = DatasetWriter.create(path, DatasetInfo("toy", {}, ARENA.frame_size, KEYS, "train"))
    rng = np.random.default_rng(0)
    for seed in range(30):
        pose = np.array([rng.uniform(20, 180), rng.uniform(20, 180), 0, rng.uniform(-3, 3), 0])
        actions = [0]
        for _ in range(9):
            _, track = walk(ARENA, pose, actions[1:])
            actions.append(5 if float(track[0, -1, 0]) < 100 else 1)
        frames, track = walk(ARENA, pose, actions[1:])
        no = np.zeros(10, bool)
        writer.add(Episode(
            frames[0].numpy(), np.array(actions), track[0].numpy(), np.zeros(10, np.float32), no, no, no, no, seed
        ))  # fmt: skip
    return TrainingCache.of(open_dataset(path))


@pytest.mark.parametrize("shortest", [1, 3])
def test_choices_are_what_was_done_next_after_what_was_seen_so_far(walks: TrainingCache, shortest: int) -> None:
    world = ToyWorld(ARENA)
    chosen = Recorded(walks, 200, context=3, shortest=shortest).choices(world, 0, discount=0.9)
    assert len(chosen.vectors) == len(chosen.actions) == len(chosen.returns) == 200
    assert torch.equal(chosen.actions, torch.where(chosen.vectors[:, 0] * ARENA.size < 100, 5, 1))
    told: list[Progress] = []
    again = Recorded(walks, 200, context=3, shortest=shortest).choices(world, 0, watch=lambda p, w: told.append(p))
    assert [p.step for p in told] == sorted({p.step for p in told}) and {p.steps for p in told} == {200}
    assert told[-1].step == 200 and told[-1].stage == "perceiving"
    assert torch.equal(chosen.vectors, again.vectors) and again.returns is None
    start, seen, end = Recorded(walks, 200, context=3, shortest=shortest, beginnings=0.5).walks(0)
    assert np.isin(start, walks.episode_start).mean() > 0.4
    assert seen.min() >= shortest and seen.max() == 3 and (start + seen < end).all()
    assert (seen - shortest + 1)[:-1].sum() < 200 <= (seen - shortest + 1).sum()


def test_returns_are_what_was_earned_from_there_on(tmp_path: Path) -> None:
    writer = DatasetWriter.create(tmp_path / "paid", DatasetInfo("toy", {}, ARENA.frame_size, KEYS, "train"))
    rng = np.random.default_rng(0)
    for seed in range(20):
        n = int(rng.integers(2, 9))
        pose = np.array([rng.uniform(20, 180), rng.uniform(20, 180), 0, 0, 0])
        actions = np.full(n, 5)  # a turn: no two moments are alike
        frames, track = walk(ARENA, pose, actions[1:])
        no, rewards = np.zeros(n, bool), rng.choice([-1.0, 0.0, 1.0], n).astype(np.float32)
        writer.add(Episode(frames[0].numpy(), actions, track[0].numpy(), rewards, no, no, no, no, seed))
    cache, world = TrainingCache.of(open_dataset(tmp_path / "paid")), ToyWorld(ARENA)
    expected = {}
    for episode in open_dataset(tmp_path / "paid").episodes():
        frames, track = torch.from_numpy(episode.frames)[None], torch.from_numpy(episode.poses)[None]
        actions = torch.from_numpy(episode.actions)[None]
        for t in range(len(episode) - 1):
            state = world.observe(world.start(1), frames[:, : t + 1], actions[:, : t + 1], track[:, : t + 1])
            rest = sum(0.5**k * float(r) for k, r in enumerate(episode.rewards[t + 1 :]))
            expected[tuple(world.encode_state(state)[0].tolist())] = (rest, float(episode.rewards.sum()))
    drawn = Recorded(cache, 300, context=9, shortest=1).choices(world, 0, discount=0.5)
    told = [expected[tuple(vector.tolist())] for vector in drawn.vectors]
    assert np.allclose(drawn.returns, [rest for rest, _ in told])
    assert any(earned <= 0 for _, earned in told)
    rewarded = Recorded(cache, 300, context=9, shortest=1, rewarded=True).choices(world, 0, discount=0.5)
    told = [expected[tuple(vector.tolist())] for vector in rewarded.vectors]
    assert np.allclose(rewarded.returns, [rest for rest, _ in told]) and all(earned > 0 for _, earned in told)


@pytest.mark.parametrize("tokens", [None, (1, 4)], ids=["vectors", "tokens"])
def test_cloning_learns_what_was_done_next_and_not_what_was_done_before(
    walks: TrainingCache, tokens, tmp_path: Path
) -> None:
    world, config = ToyWorld(ARENA), replace(SMALL, heads=replace(SMALL.heads, tokens=tokens is not None))
    world.state_tokens = tokens
    training = StageConfig(120, batch_size=32, learning_rate=5e-3, warmup=5, weight_decay=0.0, ema=0.9)
    actor = clone_behaviour(world, Recorded(walks, 300, context=3), tmp_path, config, training)
    assert actor is not None
    held_out = Recorded(walks, 100, context=2).choices(world, 1)
    with torch.no_grad():
        right = (actor.heads.policy.best(held_out.vectors) == held_out.actions).float().mean()
    assert float(right) > 0.9
    assert float(actor.value(held_out.vectors).abs().max().detach()) < 1e-4, "the critic is left alone"
    with pytest.raises(ConfigError, match="other actions"):
        clone_behaviour(ToyWorld(replace(ARENA, actions=AXES)), Recorded(walks), tmp_path, SMALL, training)
    with pytest.raises(DataError, match="more earned than lost"):
        clone_behaviour(world, Recorded(walks, rewarded=True), tmp_path / "rewarded", config, training)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(ConfigError, match="another configuration"):
        clone_behaviour(world, Recorded(walks, 299, context=3), tmp_path, config, training)
    assert all(path.read_bytes() == held for path, held in before.items()), "what another run has there stays"
