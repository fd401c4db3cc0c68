"""The state space: what a state is made of, and stepping on in it."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from worldloop.envs.contexts import Contexts
from worldloop.envs.imagined import ImaginedEnv
from worldloop.envs.imagined_vector import ImaginedVectorEnv
from worldloop.envs.uncertainty import check_uncertainty, kinds_of
from worldloop.errors import ConfigError
from worldloop.rollouts.cache import TrainingCache
from worldloop.rollouts.episode import Episode
from worldloop.rollouts.metadata import DatasetInfo
from worldloop.rollouts.store import DatasetWriter, open_dataset
from worldloop.world_models.actions import ActionSpec, motion_magnitudes
from worldloop.world_models.config import WorldConfig, preset
from worldloop.world_models.evidence import novelty_around
from worldloop.world_models.perception.state_encoder import StateConfig, Surroundings, around, normed, state_grid
from worldloop.world_models.pose import motion_between, move
from worldloop.world_models.prediction.ways import BREADTH, WAYS_OUT, either_way
from worldloop.world_models.state import WorldState
from worldloop.world_models.state_space import StateSpace
from worldloop.world_models.training.chance import Chance
from worldloop.world_models.training.config import StageConfig
from worldloop.world_models.training.state_samples import StateSamples
from worldloop.world_models.training.state_space import UNROLLED, StateStage
from worldloop.world_models.training.state_validation import StateScores
from worldloop.world_models.world_model import WorldModel

SPEC = ActionSpec("discrete", ("stay", "walk", "turn"), ((0, 0, 0, 0, 0), (25, 0, 0, 0, 0), (0, 0, 0, 0.4, 0)))
SMALL = StateConfig(width=16, rounds=1, heads=2, hidden=24)
NUMBERS = 3 * 4 * 16
"""Of the summaries in its states: a token for each latent of the small grid."""
SIZE = (24, 32)


def made(imagination: str = "video", seed: int = 0, retrieval: str = "worldpack") -> WorldModel:
    torch.manual_seed(seed)
    shape = preset("tiny", SPEC, SIZE)
    cdit = replace(shape.cdit, depth=1, width=32, heads=2, context=(2, 1), retrieved=(1, 2))
    shape = replace(shape, cdit=cdit, state=SMALL, imagination=imagination, retrieval=retrieval)
    world = WorldModel(shape).eval().requires_grad_(False)
    # Conditions begin at zero, where memory does not matter.
    for name, parameter in world.named_parameters():
        if name.startswith("state_space") and "modulation" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    return world


def walk(length: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Frames (T, H, W, 3), actions (T,) and poses (T, 5) of a random walk on free ground."""
    rng = np.random.default_rng(seed)
    actions = rng.integers(0, 3, length)
    pose, poses = torch.zeros(1, 5, dtype=torch.float64), []
    for t, action in enumerate(actions):
        if t:
            pose = move(pose, SPEC.nominal_motion(torch.tensor([action])).to(torch.float64))
        poses.append(pose[0].numpy())
    return rng.integers(0, 256, (length, *SIZE, 3), dtype=np.uint8), actions, np.stack(poses)


def after(world: WorldModel, length: int = 12, worlds: int = 1) -> WorldState:
    """Worlds that have each seen a walk of their own."""
    walks = [walk(length, seed) for seed in range(worlds)]
    frames, actions, poses = (np.stack(parts) for parts in zip(*walks, strict=True))
    return world.observe(world.start(worlds), frames, actions, poses)


def recorded(data: Path) -> TrainingCache:
    """Two walks, as a data set."""
    writer = DatasetWriter.create(data, DatasetInfo("walks", {}, SIZE, SPEC, "train"))
    for seed, length in enumerate((31, 44)):
        frames, actions, poses = walk(length, seed)
        no = np.zeros(length, bool)
        writer.add(Episode(frames, actions, poses, np.zeros(length, np.float32), no, no, no, no, seed))
    return TrainingCache.of(open_dataset(data))


def space() -> StateSpace:
    """One whose last layers and conditions, at first zero, let everything through."""
    torch.manual_seed(0)
    made = StateSpace(SMALL, 16, (6, 8), math.pi / 2, 200.0).eval()
    for name, parameter in made.named_parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.2)
        assert parameter.any(), name
    return made


def surroundings(frames: int = 5, seed: int = 0) -> Surroundings:
    generator = torch.Generator().manual_seed(seed)
    poses = torch.randn(2, frames, 5, generator=generator, dtype=torch.float64) * 50
    poses[..., 4] = 0.1
    return Surroundings(
        torch.randn(2, frames, 16, 6, 8, generator=generator),
        poses,
        torch.arange(frames).flip(0).expand(2, -1),
        torch.ones(2, frames, dtype=torch.bool),
        poses[:, -1],
    )


def moved(p: Tensor, turn: float = 1.1) -> Tensor:
    """Poses in a world whose axes lie elsewhere."""
    rotation = torch.tensor([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]], dtype=torch.float64)
    return torch.cat([p[..., :2] @ rotation.T + 1000, p[..., 2:3] + 7, p[..., 3:4] + turn, p[..., 4:]], -1)


def test_states_have_mean_0_and_variance_1() -> None:
    x = torch.randn(7, 32) * 5 + 3
    by_hand = (x - x.mean(1, keepdim=True)) / x.std(1, correction=0, keepdim=True)
    assert torch.allclose(normed(x), by_hand, atol=1e-4)


def test_around_looks_in_every_direction_from_one_place() -> None:
    pose = torch.tensor([[3.0, 4.0, 5.0, 3.0, 0.1]], dtype=torch.float64)
    turned = around(pose, 4)[0]
    assert torch.equal(turned[:, :3], pose[:, :3].expand(4, 3)) and torch.equal(turned[0], pose[0])
    steps = torch.remainder(turned[:, 3] - 3.0, 2 * math.pi)
    assert torch.allclose(steps, torch.tensor([0, 0.5, 1.0, 1.5], dtype=torch.float64) * math.pi)


def test_grids_of_any_size_make_a_few_tokens_that_cover_them() -> None:
    assert state_grid((6, 8)) == (3, 4, 2) and state_grid((3, 4)) == (3, 4, 1) and state_grid((44, 80)) == (4, 6, 14)
    for grid in ((6, 8), (3, 4), (44, 80), (1, 1), (7, 9)):
        rows, columns, side = state_grid(grid)
        assert grid[0] <= rows * side < grid[0] + side and grid[1] <= columns * side < grid[1] + side


def test_states_do_not_know_where_the_origin_is() -> None:
    model, seen = space(), surroundings()
    elsewhere = replace(seen, poses=moved(seen.poses), pose=moved(seen.pose))
    left, magnitudes, deviation = seen.poses[:, 0], torch.rand(2, 13), torch.rand(2, 5)
    with torch.no_grad():
        here, there = model.encode(seen), model.encode(elsewhere)
        apart = model.encode(replace(seen, pose=moved(seen.pose)))
        step = model.step(here, left, magnitudes, deviation, seen)
        same = model.step(here, moved(left), magnitudes, deviation, elsewhere)
        astray = model.step(here, moved(left), magnitudes, deviation, seen)
    assert torch.allclose(here, there, atol=1e-4) and not torch.allclose(here, apart, atol=1e-2)
    assert torch.allclose(step.state, same.state, atol=1e-4) and not torch.allclose(step.state, astray.state, atol=1e-4)


def test_frames_that_do_not_exist_count_for_nothing_and_their_order_neither() -> None:
    model, seen = space(), surroundings()

    def states(seen: Surroundings) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            step = model.step(torch.ones(2, model.size), seen.pose, torch.ones(2, 13), torch.ones(2, 5), seen)
            return model.encode(seen), step.state

    def pick(order: list[int], seen: Surroundings) -> Surroundings:
        frames, poses, age, valid = (x[:, order] for x in (seen.latents, seen.poses, seen.age, seen.valid))
        return Surroundings(frames, poses, age, valid, seen.pose)

    gap = replace(seen, valid=torch.tensor([True, False, True, True, True]).expand(2, -1))
    for kind in (0, 1):
        state = states(gap)[kind]
        assert torch.allclose(state, states(pick([0, 2, 3, 4], gap))[kind], atol=1e-5)
        assert torch.allclose(state, states(pick([4, 2, 0, 3, 1], gap))[kind], atol=1e-5)
        assert not torch.allclose(state, states(seen)[kind], atol=1e-3)
        older = replace(seen, age=torch.where(seen.age > 0, seen.age + 50, 0))
        assert not torch.allclose(states(seen)[kind], states(older)[kind], atol=1e-4)


def test_gradients_of_a_roll_out_reach_frames_memory_poses_and_every_parameter() -> None:
    model, seen, ahead = space(), surroundings(), surroundings(3, 1)
    seen.latents.requires_grad_()
    ahead.latents.requires_grad_()
    pose = ahead.pose.clone().requires_grad_()
    ahead = replace(ahead, pose=pose)
    state = model.encode(seen)
    total = torch.zeros(())
    for _ in range(4):
        total = total + model.head.correct(state, torch.rand(2, 13), torch.rand(2, 5)).sum()
        step = model.step(state, seen.pose, torch.rand(2, 13), torch.rand(2, 5), ahead)
        total = total + step.reward.sum() + step.goes_on.sum() + step.members.square().sum()
        state = step.state
    (total + model.head.decode(state).square().sum()).backward()
    for each in (seen, ahead):
        gradient = each.latents.grad
        assert gradient is not None and bool((gradient.abs().sum((2, 3, 4)) > 0).all())
    assert pose.grad is not None and bool(pose.grad[:, [0, 1, 3]].all())
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all() and parameter.grad.any(), name


def test_an_untrained_world_does_as_it_is_asked_and_may_be_stopped() -> None:
    model, asked = StateSpace(SMALL, 16, (6, 8), 1.5, 100.0), torch.tensor([[1.0, 0, 0, 0, 0], [0, 0.5, 0, -1, 0]])
    motions, chances = model.head.ways(torch.randn(2, model.size), motion_magnitudes(asked), torch.randn(2, 5))
    assert torch.equal(motions[:, 0], torch.zeros(2, 5)) and torch.equal(motions[:, 1], -asked)
    assert torch.allclose(chances.exp().sum(1), torch.ones(2)) and bool((chances[:, 1].exp() < 0.1).all())


def test_surprise_is_that_of_two_ways_to_go() -> None:
    motions, made = torch.randn(4, 2, 5), torch.randn(4, 5)
    chances = torch.randn(4, 2).log_softmax(1)
    expected = []
    for b in range(4):
        likely = 0.0
        for way in range(2):
            off = (motions[b, way] - made[b]).abs()
            cost = torch.where(off < 0.05, off**2 / 0.1, off - 0.025).sum()
            likely += math.exp(chances[b, way] - cost / BREADTH)
        expected.append(-BREADTH * math.log(likely))
    assert float(either_way(motions, chances, made).mean()) == pytest.approx(np.mean(expected), rel=1e-4)


def test_a_wall_that_is_seldom_met_is_learned_as_a_wall() -> None:
    model, generator = space(), torch.Generator().manual_seed(0)
    forward = motion_magnitudes(torch.tensor([[1.0, 0, 0, 0, 0]]))
    head, nothing = model.head, torch.zeros(512, 5)
    adam = torch.optim.Adam(head.motion.parameters(), lr=3e-3)

    def drawn() -> tuple[Tensor, Tensor]:
        """States, one in ten of which has a wall ahead, and how far steps fall short there."""
        states = torch.randn(512, model.size, generator=generator)
        return states, -(states[:, 0] > 1.3).to(torch.float32)

    for _ in range(300):
        states, short = drawn()
        made = torch.nn.functional.pad(short.unsqueeze(1), (0, 4))
        loss = either_way(*head.ways(states, forward.expand(512, -1), nothing), made).mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
    states, short = drawn()
    told = head.correct(states, forward.expand(512, -1), nothing)[:, 0]
    sure = (states[:, 0] - 1.3).abs() > 0.3
    assert float(((told - short).abs() < 0.1)[sure].float().mean()) > 0.95
    # Nowhere half-way through a wall.
    assert bool(((told.abs() < 0.15) | ((told + 1).abs() < 0.15)).all())


def test_members_are_averaged_and_their_spread_is_the_uncertainty() -> None:
    model, seen = space(), surroundings()
    with torch.no_grad():
        state = model.encode(seen)
        step = model.step(state, seen.pose, torch.rand(2, 13), torch.rand(2, 5), seen)
    members = step.members.numpy()
    mean = torch.from_numpy(members.mean(1)).view(2, -1, SMALL.width)
    assert np.allclose(step.state.numpy(), normed(mean).flatten(1).numpy(), atol=1e-5)
    assert np.allclose(step.disagreement.numpy(), np.sqrt(members.var(1).mean(1)), atol=1e-6)
    assert model.head.decode(step.state).shape == (2, 16, 6, 8)


@pytest.mark.parametrize("retrieval", ["worldpack", "none"])
def test_what_training_shows_a_state_is_what_it_is_made_of_in_use(tmp_path: Path, retrieval: str) -> None:
    world = made(retrieval=retrieval)
    cache = recorded(tmp_path / "d")
    latents = world.encode(cache.frames[:]).numpy()
    samples = StateSamples(world, cache, latents, UNROLLED)
    walks = samples.draw(0, 6, seed=3, whole=True)
    for back in (UNROLLED, 0):
        shown = samples.seen(walks, back, Chance.of(3, 0, 6, world.device))
        for i in range(6):
            rows = walks.rows[i, : walks.target[i] - back + 1]
            state = world.observe(
                world.start(1), cache.frames[rows][None], cache.actions[rows][None], cache.poses[rows][None]
            )
            used = world.surroundings(state)
            assert torch.equal(used.valid[0], shown.valid[i]) and torch.equal(used.pose[0], shown.pose[i])
            there = used.valid[0]
            assert torch.equal(used.age[0][there], shown.age[i][there])
            assert torch.equal(used.poses[0][there], shown.poses[i][there])
            # Memory keeps half precision.
            assert torch.allclose(used.latents[0][there], shown.latents[i][there], atol=2e-2)
        # The same of the frame before, about to be seen from the pose that follows it.
        if back == 0:
            ahead = samples.remembered(walks, 0, Chance.of(3, 0, 6, world.device))
            for i in range(6):
                rows = walks.rows[i, : walks.target[i] - UNROLLED + 1]
                state = world.observe(
                    world.start(1), cache.frames[rows][None], cache.actions[rows][None], cache.poses[rows][None]
                )
                state = replace(state, step=state.step + UNROLLED - 1)
                arrived = torch.from_numpy(cache.poses[walks.at(0)[i : i + 1]])
                used = world.state_space.look_ahead(state, world._strategy, arrived)  # type: ignore[union-attr]
                there = used.valid[0]
                assert torch.equal(used.valid[0], ahead.valid[i]) and torch.equal(used.pose[0], ahead.pose[i])
                assert torch.equal(used.age[0][there], ahead.age[i][there])
                assert torch.equal(used.poses[0][there], ahead.poses[i][there])
                assert torch.allclose(used.latents[0][there], ahead.latents[i][there], atol=2e-2)
    assert shown.valid.shape[1] == (2 if retrieval == "none" else 2 + 4 * 2)


def test_predictions_begin_at_every_frame_and_meet_the_end_at_all_distances(tmp_path: Path) -> None:
    world = made()
    cache = recorded(tmp_path / "d")
    latents = world.encode(cache.frames[:]).numpy()
    samples = StateSamples(world, cache, latents, UNROLLED)
    walks = samples.draw(0, 4000, seed=1)
    ends = cache.episode_start + cache.episode_lengths - 1
    begins = walks.at(UNROLLED)
    # From every frame but the last ones, equally often.
    possible = np.setdiff1d(np.arange(len(cache.poses)), ends)
    counts = np.bincount(begins, minlength=len(cache.poses))
    assert set(np.flatnonzero(counts)) == set(possible)
    assert counts[possible].max() < 2 * counts[possible].mean()
    for ahead in range(1, UNROLLED + 1):
        there = walks.exists(UNROLLED - ahead)
        episode = np.searchsorted(cache.episode_start, begins, side="right") - 1
        assert np.array_equal(there, begins + ahead <= ends[episode])
        assert np.array_equal(walks.at(UNROLLED - ahead)[there], begins[there] + ahead)
        assert np.isin(walks.at(UNROLLED - ahead)[there], ends).any()
    # A first frame has been seen alone, after no motion.
    first = np.isin(begins, cache.episode_start)
    shown = samples.seen(walks, UNROLLED, Chance.of(1, 0, 4000, world.device))
    assert shown.valid[torch.from_numpy(first)].sum(1).eq(1).all()
    asked, went = samples.motions(walks, UNROLLED)
    assert not asked[torch.from_numpy(first)].any() and not went[torch.from_numpy(first)].any()


def test_a_stage_of_training_lowers_its_losses(tmp_path: Path) -> None:
    torch.manual_seed(0)
    world = made()
    world.state_space.requires_grad_(True)  # type: ignore[union-attr]
    writer = DatasetWriter.create(tmp_path / "d", DatasetInfo("walks", {}, SIZE, SPEC, "train"))
    for seed in range(4):
        frames, actions, poses = walk(40, seed)
        # A wall: whoever walks stops after half a step, and that pays.
        pose, walked = torch.zeros(1, 5, dtype=torch.float64), []
        for t, action in enumerate(actions):
            if t:
                asked = SPEC.nominal_motion(torch.tensor([action])).to(torch.float64)
                pose = move(pose, asked * torch.tensor([0.5, 1, 1, 1, 1], dtype=torch.float64))
            walked.append(pose[0].numpy())
        no = np.zeros(40, bool)
        rewards = (actions == 1).astype(np.float32)
        writer.add(Episode(frames, actions, np.stack(walked), rewards, no, no, no, no, seed))
    cache = TrainingCache.of(open_dataset(tmp_path / "d"))
    stage = StateStage(world, cache, world.encode(cache.frames[:]).numpy(), StageConfig(1, batch_size=16), seed=0)
    optimizer = torch.optim.Adam(stage.module.parameters(), 3e-3)
    losses = []
    for step in range(150):
        loss = stage.loss(step)
        optimizer.zero_grad()
        torch.stack([*loss.values()]).sum().backward()
        optimizer.step()
        losses.append({name: float(value.detach()) for name, value in loss.items()})
    for name in ("motion", "reward"):
        late = float(np.mean([x[name] for x in losses[-10:]]))
        assert late < 0.25 * losses[0][name], (name, losses[0][name], late)
    world.use(replace(world.config, imagination="state"))
    frames, actions, poses = walk(12, 9)
    with torch.no_grad():
        state = world.observe(world.start(1), frames[None], actions[None], poses[None])
        arrived, step = world.imagine(state, [1])
    moved = motion_between(state.pose, arrived.pose)[0]
    assert float(moved[0]) == pytest.approx(12.5, abs=4) and float(step.reward) == pytest.approx(1, abs=0.3)


def test_imagining_in_state_space_follows_poses_and_leaves_memory_alone() -> None:
    world = made("state")
    state = after(world, worlds=3)
    assert state.memory is not None
    lengths = state.memory.lengths.copy()
    first, step = world.imagine(state, [1, 2, 0])
    second, _ = world.imagine(first, [1, 1, 1])
    assert second.memory is not None and np.array_equal(second.memory.lengths, lengths)
    assert torch.equal(first.pose, step.pose) and torch.equal(second.step, state.step + 2)
    # Untrained heads correct nothing: motions are those asked for.
    assert torch.allclose(step.pose, move(state.pose, SPEC.nominal_motion(torch.tensor([1, 2, 0])).to(torch.float64)))
    assert step.latents.shape == (3, 16, 3, 4) and step.retrieved_times.shape == (3, 2) and world.retrieves == 2
    assert bool((step.uncertainty > 0).all()) and not torch.equal(world.encode_state(first), world.encode_state(state))


def test_a_given_pose_is_gone_to() -> None:
    world = made("state")
    state = after(world, worlds=2)
    there = torch.tensor([[5.0, 6, 0, 1, 0], [-5.0, 6, 0, 2, 0]], dtype=torch.float64)
    moved, step = world.imagine(state, [0, 0], there)
    assert torch.equal(step.pose, there) and torch.equal(moved.pose, there)


def test_worlds_do_not_disturb_each_other_and_forks_go_on_alike() -> None:
    world = made("state")
    state = after(world, worlds=4)
    together, _ = world.imagine(state, [1, 2, 1, 0])
    for i, action in enumerate([1, 2, 1, 0]):
        alone, _ = world.imagine(state[i], [action])
        assert torch.allclose(alone.carried["state"], together.carried["state"][i : i + 1], atol=1e-5)
    copies, _ = world.imagine(state[1].fork(3), [2, 2, 2])
    # Matrix products round rows at the end of a batch differently.
    assert torch.allclose(copies.carried["state"], together.carried["state"][1].expand(3, -1), atol=1e-6)
    again = world.imagine(WorldState.restore(state.snapshot()), [1, 2, 1, 0])[0]
    assert torch.equal(again.carried["state"], together.carried["state"])


@pytest.mark.parametrize("imagination", ["video", "state"])
def test_drawn_motions_are_stopped_as_often_as_the_world_says(imagination: str) -> None:
    world = made(imagination)
    last = world.pose_head.out if imagination == "video" else world.state_space.head.motion[-1]  # type: ignore[union-attr]
    # Otherwise zero, it leaves the two ways at "as asked" and "not at all".
    torch.nn.init.constant_(last.bias[12:], math.log(0.3 / 0.7) + 3)
    seen = after(world).fork(400).with_seeds(torch.arange(400))
    forward = [1] * 400
    _, step = world.imagine(seen, forward)
    assert bool((step.pose == step.pose[0]).all())
    world.use(world.config.with_overrides(motions="drawn"))
    _, step = world.imagine(seen, forward)
    went = (step.pose - seen.pose)[:, :2].norm(dim=1)
    stopped = went < 0.01
    assert bool((stopped | ((went - 25).abs() < 0.01)).all())
    assert float(stopped.float().mean()) == pytest.approx(0.3, abs=3 * math.sqrt(0.3 * 0.7 / 400))
    # The draw is a world's own: by its seed and step, in any company.
    for i in (0, 7, 399):
        assert torch.equal(world.imagine(seen[i], [1])[1].pose[0], step.pose[i])
    assert replace(world.config, imagination="state", ways=1).motions == "drawn"
    with pytest.raises(ConfigError, match="likeliest way of a step alone"):
        replace(world.config, imagination="video", ways=1)


@pytest.mark.parametrize("imagination", ["video", "state"])
def test_who_was_stopped_is_stopped_again_by_the_same_step_as_often_as_recorded(imagination: str) -> None:
    world = made(imagination)
    free = after(world)
    rng = np.random.default_rng(0)

    def bumped(key: int) -> WorldState:
        """It asks for a key and stays where it is; 400 worlds of it."""
        frame = rng.integers(0, 256, (1, 1, *SIZE, 3), dtype=np.uint8)
        seen = world.observe(free, frame, np.array([[key]]), free.pose[:, None].numpy())
        return seen.fork(400).with_seeds(torch.arange(400))

    def still(state: WorldState, key: int) -> float:
        _, step = world.imagine(state, [key] * 400)
        return float((step.pose == state.pose).all(1).double().mean())

    by_chance = 1 / (1 + math.exp(3))  # what an untrained world says of every step
    world.use(world.config.with_overrides(motions="drawn", stopped_again=0.9))
    assert still(bumped(1), 1) == pytest.approx(0.9, abs=3 * math.sqrt(0.09 / 400))
    others = [still(bumped(1), 2), still(bumped(2), 1), still(bumped(0), 1)]
    others.append(still(free.fork(400).with_seeds(torch.arange(400)), 1))
    assert others == pytest.approx([by_chance] * 4, abs=3 * math.sqrt(by_chance / 400)), "another step, or a free one"
    # It stays so over and over: of 400, by 0.9 in every step.
    state, left = bumped(1), torch.ones(400, dtype=torch.bool)
    for _ in range(5):
        before = state.pose
        state, _ = world.imagine(state, [1] * 400)
        left &= (state.pose == before).all(1)
    assert float(left.double().mean()) == pytest.approx(0.9**5, abs=3 * math.sqrt(0.25 / 400))

    world.use(world.config.with_overrides(stopped_again=0.0))
    assert still(bumped(1), 1) == pytest.approx(by_chance, abs=3 * math.sqrt(by_chance / 400)), "left to the head"
    likeliest = [world.config.with_overrides(motions="likeliest", stopped_again=p) for p in (0.4, 0.6)]
    for config, stays in zip(likeliest, (0, 1), strict=True):
        world.use(config)
        assert still(bumped(1), 1) == stays
    with pytest.raises(ConfigError, match="a probability, between 0 and 1"):
        world.config.with_overrides(stopped_again=1.5)


@pytest.mark.parametrize("imagination", ["video", "state"])
def test_a_state_tells_how_far_the_last_step_went_off_what_was_asked(imagination: str) -> None:
    world = made(imagination)
    begun, nothing = after(world, worlds=3), torch.zeros(3, 5)
    assert world.state_size == world.encode_state(begun).shape[1] == NUMBERS + 21
    assert torch.allclose(world.encode_state(begun)[:, NUMBERS:][:, :5], nothing, atol=1e-5)
    # The first is stopped by a wall, the second goes as far as it should, the third turns too far and is pushed aside.
    came = torch.stack([
        begun.pose[0],
        move(begun.pose[1:2], torch.tensor([[25.0, 0, 0, 0, 0]], dtype=torch.float64))[0],
        move(begun.pose[2:3], torch.tensor([[0, 5.0, 0, 0.6, 0]], dtype=torch.float64))[0],
    ])  # fmt: skip
    told = 10 * torch.tensor([[-1.0, 0, 0, 0, 0], [0, 0, 0, 0, 0], [0, 5 / 25, 0, 0.2 / 0.4, 0]])
    frames = np.zeros((3, 1, *SIZE, 3), np.uint8)
    seen = world.observe(begun, frames, np.array([[1], [1], [2]]), came[:, None])
    assert torch.allclose(world.encode_state(seen)[:, NUMBERS:][:, :5], told, atol=1e-5)
    # In imagination too, where a head corrects what is asked for.
    head = world.pose_head if imagination == "video" else world.state_space.head  # type: ignore[union-attr]
    last = [m for m in head.modules() if isinstance(m, torch.nn.Linear) and m.out_features == WAYS_OUT][-1]
    torch.nn.init.normal_(last.bias, std=0.3)
    imagined, step = world.imagine(begun, [1, 1, 1])
    made_of = motion_between(begun.pose, step.pose).float() - torch.tensor([25.0, 0, 0, 0, 0])
    off = world.encode_state(imagined)[:, NUMBERS:][:, :5]
    assert torch.allclose(off, 10 * made_of / torch.tensor([25.0, 25, 25, 0.4, 0.4]), atol=1e-3) and bool(off.any())


def test_a_state_tells_how_new_what_one_could_see_would_be() -> None:
    world = made()
    state, known = after(world, 9, worlds=2), [walk(9, seed)[2] for seed in range(2)]

    def view(yaw: float) -> np.ndarray:
        return np.array([math.cos(yaw), math.sin(yaw)])

    def expected(poses: np.ndarray, now: np.ndarray) -> list[float]:
        yaws = now[3] + np.arange(8) * math.pi / 4
        views = [(now[:2] + far * view(yaw), yaw) for far in (0.0, 2 * 25.0) for yaw in yaws]
        apart = [
            [math.hypot(math.dist(at, p[:2]) / 80, math.acos(np.clip(view(yaw) @ view(p[3]), -1, 1)) / (math.pi / 4))
             for p in poses]
            for at, yaw in views
        ]  # fmt: skip
        return [5 * min(1.0, *row) for row in apart]

    def told(state: WorldState) -> Tensor:
        return world.encode_state(state)[:, -16:]

    truth = torch.tensor([expected(poses, poses[-1]) for poses in known])
    assert torch.allclose(told(state), truth, atol=1e-3) and bool((truth == 5).any()) and bool((truth == 0).any())
    # What is imagined is remembered: after turning once round nothing is new on the spot, and something beside it.
    for _ in range(16):
        state, _ = world.imagine(state, [2, 2], pose=move(state.pose, torch.tensor([[0, 0, 0, 0.4, 0.0]]).double()))
    assert float(told(state)[:, :8].max()) < 5 * 0.2 / (math.pi / 4) + 1e-3 < float(told(state)[:, 8:].max())
    # Nothing is known without a memory; and no gradient comes through poses.
    without = WorldModel(world.config.with_overrides(retrieval="none")).eval()
    assert bool((without.encode_state(after(without))[:, -16:] == 5).all())
    bent = replace(state, pose=state.pose.clone().requires_grad_())
    assert not novelty_around(bent, 25.0).requires_grad


def test_states_go_from_one_way_of_imagining_to_the_other() -> None:
    video, fast = made(), made("state")
    seen = after(video)
    assert "state" not in seen.carried
    adopted = fast.adopt(seen)
    assert torch.equal(adopted.carried["state"], video.encode_state(seen)[:, :NUMBERS])
    assert torch.equal(fast.encode_state(adopted), video.encode_state(seen))
    back = video.adopt(adopted)
    assert "state" not in back.carried and torch.equal(back.latents, seen.latents)
    onward, _ = video.imagine(adopted, [1])
    assert "state" not in onward.carried
    # What was carried is what was imagined; what is made anew is what is remembered.
    assert "state" not in video.observe(adopted, *[x[None] for x in walk(3)]).carried


def test_vectors_of_another_state_space_are_refused() -> None:
    world, other = made("state"), made("state")
    torch.nn.init.normal_(other.state_space.head.place)  # type: ignore[union-attr]
    state = after(world)
    for use in (other.adopt, lambda s: other.imagine(s, [1])):
        with pytest.raises(ValueError, match="imagined in another state space"):
            use(state)
    # What it saw and remembers is the same; only the vector is not.
    seen = made().adopt(state)
    assert torch.equal(other.adopt(seen).latents, state.latents)
    assert world.adopt(WorldState.restore(state.snapshot())).origin == state.origin != seen.origin


def test_kinds_of_uncertainty_that_state_space_cannot_tell_are_refused() -> None:
    torch.manual_seed(0)
    config = replace(made("state").config, outcome_members=3, error_head=True)
    assert kinds_of(WorldModel(config)) == ("denoising", "coverage")
    video = WorldModel(replace(config, imagination="video"))
    assert kinds_of(video) == ("denoising", "disagreement", "coverage", "ensemble", "expected_error")
    with pytest.raises(ConfigError, match="drawn by chance"):
        check_uncertainty("disagreement", 4, WorldModel(config))


def test_environments_step_in_state_space_and_observe_states() -> None:
    world = made("state")
    frames, actions, poses = walk(6)
    starts = Contexts(frames[None], actions[None], poses[None], np.zeros(1, np.int64), SPEC, "train")
    alone = ImaginedEnv(world, starts, observation=("state", "frame"), max_episode_steps=5)
    seen, _ = alone.reset(seed=3)
    assert seen["state"].shape == (NUMBERS + 21,) and alone.observation_space.contains(seen)
    envs = ImaginedVectorEnv(world, 2, starts, observation="state", max_episode_steps=3)
    envs.reset(seed=[3, 4])
    for t in range(8):
        states, *_ = envs.step(np.array([1, 2]))
        if t < 3:
            one, *_ = alone.step(1)
            assert np.allclose(one["state"], states[0], atol=1e-5)
    saved = alone.snapshot()
    going_on = alone.step(2)[0]["state"]
    alone.restore(saved)
    assert np.array_equal(alone.step(2)[0]["state"], going_on)
    # States of a world that draws are taken, and its states are observed too.
    drawn = ImaginedEnv(made(), starts, observation="state")
    drawn.reset(seed=0)
    drawn.step(1)
    taken, _ = ImaginedEnv(world, starts, observation="state").reset(options={"state": drawn.state})
    assert np.allclose(taken, made().encode_state(drawn.state)[0].numpy())


def test_configurations_round_trip_and_bad_ones_are_named() -> None:
    config = made("state").config
    assert WorldConfig.from_json(config.to_json()) == config
    with pytest.raises(ConfigError, match="no state space"):
        replace(config, state=None)
    with pytest.raises(ConfigError, match="'video' or 'state'"):
        replace(config, imagination="dream")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="multiple of the heads"):
        StateConfig(width=31)
    with pytest.raises(ConfigError, match="at least 1"):
        StateConfig(members=0)
    blind = WorldModel(replace(config, state=None, imagination="video"))
    assert blind.state_size == 0
    with pytest.raises(ConfigError, match="no state space"):
        blind.encode_state(after(blind))
    frames, actions, poses = walk(6)
    starts = Contexts(frames[None], actions[None], poses[None], np.zeros(1, np.int64), SPEC, "train")
    with pytest.raises(ConfigError, match="states cannot be observed"):
        ImaginedEnv(blind, starts, observation="state")


def test_scores_are_shares_of_what_the_mean_picture_leaves_open(tmp_path: Path) -> None:
    world = made()
    cache = recorded(tmp_path / "d")
    latents = world.encode(cache.frames[:]).numpy()
    scores = StateScores(world, cache, latents, samples=9).score()
    walks = StateSamples(world, cache, latents, 10).draw(0, 9, 0, whole=True)
    truth = np.stack([latents[walks.at(back)] for back in range(10, -1, -1)]).astype(np.float64)
    spread = ((truth - truth.mean((0, 1))) ** 2).mean()
    assert scores["state_10_held"] == pytest.approx(((truth[0] - truth[10]) ** 2).mean() / spread, rel=1e-3)
    # On free ground motions are those asked for, and untrained heads correct nothing.
    assert scores["nominal_astray"] == pytest.approx(0, abs=1e-6) == scores["state_astray"]
    vectors = torch.cat(
        [
            world.encode_state(
                world.observe(world.start(1), cache.frames[r][None], cache.actions[r][None], cache.poses[r][None])
            )
            for r in (walks.rows[i, : walks.target[i] - 9] for i in range(9))
        ]
    )
    with torch.no_grad():
        shown = world.state_space.head.decode(vectors[:, :NUMBERS]).numpy()  # type: ignore[union-attr]
    assert scores["state_now"] == pytest.approx(((shown - truth[0]) ** 2).mean() / spread, rel=1e-2)
    assert scores["state_10"] != scores["state_10_unremembered"]
