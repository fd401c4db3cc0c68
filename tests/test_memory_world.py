"""The world model with a long-term memory: recall, forks, snapshots, positions, cameras."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from worldloop.errors import ConfigError
from worldloop.world_models.actions import ActionSpec
from worldloop.world_models.config import WorldConfig, preset
from worldloop.world_models.memory import recall as recall_module
from worldloop.world_models.memory.bank import Arena
from worldloop.world_models.memory.recall import recall
from worldloop.world_models.memory.retrieval import Query, Remembered, WorldPack, retrieve
from worldloop.world_models.prediction.cdit import CDiT
from worldloop.world_models.prediction.config import CDiTConfig
from worldloop.world_models.prediction.placement import CAMERAS
from worldloop.world_models.state import WorldState
from worldloop.world_models.world_model import WorldModel

SPEC = ActionSpec(
    "discrete", ("stay", "forward", "turn"), ((0, 0, 0, 0, 0), (25, 0, 0, 0, 0), (0, 0, 0, 0.3927, 0))
)


def memory_config(**cdit: object) -> WorldConfig:
    base = preset("tiny", SPEC)
    return replace(base, cdit=replace(base.cdit, depth=2, retrieved=(1, 2), **cdit))  # type: ignore[arg-type]


def awake(world: WorldModel) -> WorldModel:
    """With every zero-initialised parameter set to something, as after training."""
    torch.manual_seed(1)
    for parameter in world.parameters():
        if not bool(parameter.any()):
            torch.nn.init.normal_(parameter, std=0.05)
    return world.eval().requires_grad_(False)


@pytest.fixture(scope="module", params=[*CAMERAS, "own"])
def world(request: pytest.FixtureRequest) -> WorldModel:
    torch.manual_seed(0)
    own = {"camera": "rays", "memory_attention": "own"}
    return awake(WorldModel(memory_config(**(own if request.param == "own" else {"camera": request.param}))))


def walked(world: WorldModel, batch: int = 2, frames: int = 40, seed: int = 0) -> WorldState:
    rng = np.random.default_rng(seed)
    pictures = rng.integers(0, 256, (batch, frames, 48, 64, 3), dtype=np.uint8)
    yaw = rng.integers(-1, 2, (batch, frames)).cumsum(1) * 0.3927
    poses = np.zeros((batch, frames, 5))
    poses[..., 0] = (25 * np.cos(yaw)).cumsum(1)
    poses[..., 1] = (25 * np.sin(yaw)).cumsum(1)
    poses[..., 3] = (yaw + np.pi) % (2 * np.pi) - np.pi
    return world.observe(world.start(batch), pictures, np.ones((batch, frames), np.int64), poses)


def imagined(world: WorldModel, state: WorldState, steps: int = 3) -> tuple[WorldState, Tensor]:
    seen = []
    for _ in range(steps):
        state, step = world.imagine(state, np.ones(state.batch_size, np.int64))
        seen.append(step.latents)
    return state, torch.stack(seen, 1)


def test_everything_seen_or_imagined_is_remembered(world: WorldModel) -> None:
    state, _ = imagined(world, walked(world))
    assert state.memory is not None
    slots, exist = state.memory.slots()
    latents, poses, times = state.memory.arena.read(slots)
    assert exist.sum(1).tolist() == [43, 43]
    assert times[0][exist[0]].tolist() == list(range(43))
    torch.testing.assert_close(poses[0][exist[0]][-1], state.pose[0])
    torch.testing.assert_close(latents[1][exist[1]][-4:], state.latents[1], atol=2e-3, rtol=2e-3)  # stored as float16


def test_memory_changes_what_is_imagined_and_blank_memory_is_no_memory(world: WorldModel) -> None:
    state = walked(world)
    _, with_memory = imagined(world, state, 1)
    config = world.config
    world.use(config.with_overrides(retrieval="none"))
    _, without = imagined(world, state, 1)
    world.use(config)
    assert float((with_memory - without).abs().max()) > 1e-4
    # A memory that holds nothing but the recent frames has nothing to give.
    short = walked(world, frames=4)
    _, first = imagined(world, short, 1)
    world.use(config.with_overrides(retrieval="none"))
    _, second = imagined(world, short, 1)
    world.use(config)
    torch.testing.assert_close(first, second, atol=1e-5, rtol=1e-5)


def test_a_world_in_a_batch_equals_that_world_alone_and_a_snapshot_goes_on(world: WorldModel) -> None:
    state = walked(world, 3)
    _, together = imagined(world, state)
    _, alone = imagined(world, state[[1]])
    torch.testing.assert_close(together[1:2], alone, atol=1e-5, rtol=1e-5)
    restored = WorldState.restore(state.snapshot())
    _, again = imagined(world, restored)
    assert torch.equal(together, again)
    mixed = WorldState.cat([state[[0]], restored[[1]]])
    _, both = imagined(world, mixed)
    torch.testing.assert_close(both, together[:2], atol=1e-5, rtol=1e-5)


def test_forks_share_the_past_and_do_not_disturb_each_other(world: WorldModel) -> None:
    state = walked(world, 1)
    _, expected = imagined(world, state)
    forks = state.fork(3)
    assert forks.memory is not None and state.memory is not None
    before = state.memory.arena.pages_in_use
    after, step = world.imagine(forks, np.array([0, 1, 2]))
    assert state.memory.arena.pages_in_use - before <= 3
    _, still = imagined(world, state)
    assert torch.equal(expected, still)
    assert not torch.equal(step.latents[0], step.latents[1])
    assert after.memory is not None and after.memory.lengths.tolist() == [41, 41, 41]


def test_observing_piecewise_remembers_the_same(world: WorldModel) -> None:
    rng = np.random.default_rng(3)
    frames = rng.integers(0, 256, (1, 12, 48, 64, 3), dtype=np.uint8)
    actions, poses = np.ones((1, 12), np.int64), rng.normal(size=(1, 12, 5))
    whole = world.observe(world.start(1), frames, actions, poses)
    part = world.start(1)
    for t in range(12):
        part = world.observe(part, frames[:, t : t + 1], actions[:, t : t + 1], poses[:, t : t + 1])
    assert whole.memory is not None and part.memory is not None
    for a, b in zip(whole.memory.to_tensors().items(), part.memory.to_tensors().items(), strict=True):
        assert a[0] == b[0]
        torch.testing.assert_close(a[1], b[1], atol=2e-3, rtol=2e-3)


def test_overrides_use_the_same_parameters_differently(world: WorldModel) -> None:
    config = world.config
    assert config.with_overrides(retrieval="none").cdit.retrieved == ()
    assert not config.with_overrides(packing="recent").remembers
    assert config.with_overrides(retrieved=(2, 2, 2)).cdit.retrieved == (2, 2, 2)
    assert WorldConfig.from_json(config.to_json()) == config
    with pytest.raises(ConfigError, match="pool sizes"):
        config.with_overrides(packing="reference")
    with pytest.raises(ConfigError, match="Unknown retrieval"):
        config.with_overrides(retrieval="magic")


def test_states_of_worlds_that_remember_otherwise_are_refused(world: WorldModel) -> None:
    plain = WorldModel(preset("tiny", SPEC))
    with pytest.raises(ValueError, match="no long-term memory"):
        world.imagine(plain.start(1), [0])
    shorter = WorldModel(memory_config(context=(1,)))
    with pytest.raises(ValueError, match="recent latents of shape"):
        world.imagine(shorter.start(1), [0])
    carrying = WorldModel(replace(preset("tiny", SPEC), cdit=replace(preset("tiny", SPEC).cdit, recurrent=4)))
    with pytest.raises(ValueError, match="another way"):
        carrying.imagine(plain.start(1), [0])
    with pytest.raises(ValueError, match="make no batch"):
        WorldState.cat([plain.start(1), carrying.start(1)])
    with pytest.raises(ValueError, match="make no batch"):
        WorldState.cat([plain.start(1), WorldModel(preset("tiny", SPEC)).start(1)])


def test_states_of_a_world_that_sees_otherwise_are_refused_even_from_disk(world: WorldModel) -> None:
    state = walked(world, 1, 6)
    other = WorldModel(world.config).eval()
    with pytest.raises(ValueError, match="another autoencoder"):
        other.imagine(WorldState.restore(state.snapshot()), [0])
    other.autoencoder.load_state_dict(world.autoencoder.state_dict())
    alike = WorldModel(world.config).eval()
    alike.load_state_dict(world.state_dict())
    _, here = world.imagine(state, [0])
    _, there = alike.imagine(WorldState.restore(state.snapshot()), [0])
    assert bool((here.latents == there.latents).all())


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_pose_that_is_no_number_is_refused_and_changes_nothing(world: WorldModel, bad: float) -> None:
    for model in (world, WorldModel(preset("tiny", SPEC)).eval()):
        state = walked(model, 1, 6)
        before = state.snapshot()
        with pytest.raises(ValueError, match="must be finite"):
            model.observe(state, np.zeros((1, 1, 48, 64, 3), np.uint8), [[0]], np.full((1, 1, 5), bad))
        with pytest.raises(ValueError, match="must be finite"):
            model.imagine(state, [0], np.array([[0, bad, 0, 0, 0]]))
        assert state.snapshot() == before


def test_more_retrieved_frames_than_exist_are_padded_and_masked(world: WorldModel) -> None:
    assert world.config.cdit.retrieved == (1, 2)
    state = walked(world, 1, 5)  # four of them are recent, so that one is left to retrieve
    _, step = world.imagine(state, [0])
    fewer = WorldModel(world.config.with_overrides(retrieved=(1,))).eval()
    fewer.load_state_dict(world.state_dict())
    _, same = fewer.imagine(state, [0])
    torch.testing.assert_close(step.latents, same.latents, atol=1e-5, rtol=1e-5)


def test_recall_by_tree_is_recall_by_scoring_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    arena, n = Arena((1, 1, 1), page_frames=4), 400
    poses = torch.from_numpy(np.cumsum(rng.normal(size=(2, n, 5)) * [20, 20, 0, 0.3, 0], 1))
    memory = arena.empty(2).extend(torch.arange(n).float().expand(2, n).reshape(2, n, 1, 1, 1), poses)
    memory = memory[[0, 1, 0, 1]].extend(torch.full((4, 3, 1, 1, 1), 7.0), poses[[0, 1, 0, 1], :3], imagined=True)
    now = torch.from_numpy(memory.next_time)
    near = torch.from_numpy(rng.integers(0, n, 4))
    query = Query(poses[[0, 1, 0, 1], near] + 1, now, torch.arange(4), skip=2)
    strategy = WorldPack(exclusion=5, weight_imagined=0.5)
    slow = recall(memory, strategy, query, 6)
    monkeypatch.setattr(recall_module, "TREE_FROM", 10)
    monkeypatch.setattr("worldloop.world_models.memory.recall.FIRST_FETCH", 8)
    assert memory.trunk_counts.sum() > 0, "no long past: this case proves nothing"
    fast = recall(memory, strategy, query, 6)
    assert arena.indices, "the tree was not used"
    for name in ("latents", "poses", "times", "valid"):
        assert torch.equal(getattr(fast, name), getattr(slow, name)), name
    # And both are what the strategy chooses from a plain list.
    every = torch.cat([poses[0], poses[0, :3]])[None]
    made_up = torch.arange(n + 3)[None] >= n
    plain = retrieve(
        strategy, Query(query.pose[:1], now[:1], now[:1], skip=2),
        Remembered(every, torch.arange(n + 3)[None], torch.ones(1, n + 3, dtype=torch.bool), made_up), 6,
    )  # fmt: skip
    assert slow.times[0].tolist() == plain.columns[0].tolist()
    assert (slow.times < now[:, None] - 2).all()


def context_of(model: CDiT, poses: Tensor, target: Tensor, time: Tensor, seed: int = 0) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    b, k = time.shape
    latents = torch.randn(b, k, 4, 4, 6, generator=rng)
    noisy = torch.randn(b, 4, 4, 6, generator=rng)
    clean = torch.zeros(b, k)
    made = model.context(latents, clean, time, poses, torch.ones(b, k, dtype=torch.bool), target)
    velocity: Tensor = model(noisy, torch.full((b,), 0.3), torch.zeros(b, dtype=torch.int64), torch.zeros(b, 13), made)
    return velocity


def small(camera: str, **config: object) -> CDiT:
    torch.manual_seed(0)
    model = CDiT(
        CDiTConfig(2, 32, 2, context=(2, 1), retrieved=(2, 1), camera=camera, **config),  # type: ignore[arg-type]
        4, (4, 6), 1.5, 100.0,
    )  # fmt: skip
    for parameter in model.parameters():
        if not bool(parameter.any()):
            torch.nn.init.normal_(parameter, std=0.2)
    return model.eval().requires_grad_(False)


@pytest.mark.parametrize("camera", CAMERAS)
def test_no_conditioning_but_the_absolute_pose_knows_where_the_world_is(camera: str) -> None:
    """The whole world moved and turned about the vertical: only RELIC's absolute poses may notice."""
    model, rng = small(camera), torch.Generator().manual_seed(2)
    poses = torch.randn(2, 4, 5, generator=rng, dtype=torch.float64) * torch.tensor([100, 100, 10, 1, 0.2])
    target = torch.randn(2, 5, generator=rng, dtype=torch.float64) * torch.tensor([100, 100, 10, 1, 0.2])
    time = torch.tensor([[-2, -1, -40, -60]] * 2)
    turn, shift = 0.9, torch.tensor([300.0, -200.0, 20.0], dtype=torch.float64)

    def moved(p: Tensor) -> Tensor:
        c, s = np.cos(turn), np.sin(turn)
        x, y = c * p[..., 0] - s * p[..., 1], s * p[..., 0] + c * p[..., 1]
        return torch.cat([torch.stack([x, y, p[..., 2]], -1) + shift, p[..., 3:] + torch.tensor([turn, 0])], -1)

    here, there = context_of(model, poses, target, time), context_of(model, moved(poses), moved(target), time)
    difference = float((here - there).abs().max())
    assert difference > 1e-2 if camera == "pose" else difference < 1e-3, difference
    # And each but "none" knows where its context was seen from.
    nearer = poses.clone()
    nearer[:, 2, :2] += 60
    change = float((context_of(model, nearer, target, time) - here).abs().max())
    assert change > 1e-3 if camera != "none" else change < 1e-5, change


@pytest.mark.parametrize("camera", CAMERAS)
def test_conditioning_begins_as_if_absent(camera: str) -> None:
    """So that a trained world can be given it, and memory's own attention, without harm."""
    torch.manual_seed(0)
    plain = CDiT(CDiTConfig(2, 32, 2, context=(2, 1), retrieved=(2, 1)), 4, (4, 6), 1.5, 100.0)
    for parameter in plain.parameters():
        if not bool(parameter.any()):
            torch.nn.init.normal_(parameter, std=0.2)
    other = CDiT(CDiTConfig(2, 32, 2, context=(2, 1), retrieved=(2, 1), camera=camera), 4, (4, 6), 1.5, 100.0)  # type: ignore[arg-type]
    other.load_state_dict(plain.state_dict(), strict=False)
    poses = torch.randn(1, 4, 5, dtype=torch.float64)
    time = torch.tensor([[-2, -1, -40, -60]])
    with torch.no_grad():
        a, b = (context_of(m, poses, poses[:, 0] + 1, time) for m in (plain, other))
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_memory_of_its_own_begins_as_no_memory_and_alone_is_told_rays() -> None:
    torch.manual_seed(0)
    plain, own = small("none"), small("rays", memory_attention="own")
    own.load_state_dict(plain.state_dict(), strict=False)
    poses, target = torch.randn(1, 4, 5, dtype=torch.float64), torch.randn(1, 5, dtype=torch.float64)
    time = torch.tensor([[-2, -1, -40, -60]])

    def moved(slot: int) -> float:
        there = poses.clone()
        there[:, slot, :2] += 60
        return float((context_of(own, there, target, time) - context_of(own, poses, target, time)).abs().max())

    assert moved(1) < 1e-6 < 1e-3 < moved(2)
    for block in own.blocks:
        assert block.memory_out is not None  # type: ignore[union-attr]
        torch.nn.init.zeros_(block.memory_out.weight)  # type: ignore[union-attr, arg-type]
    assert moved(2) == 0


def test_reframed_positions_stay_where_training_was_whatever_the_age() -> None:
    reframed, true = small("none"), small("none", positions="true")
    ages = torch.tensor([[-500, -30], [-7, -90]])
    there = torch.ones(2, 2, dtype=torch.bool)
    assert reframed.offsets(ages, there).tolist() == [[-4, -3], [-3, -4]]
    assert true.offsets(ages, there).tolist() == ages.tolist()
    assert reframed.offsets(ages, torch.tensor([[True, False], [False, True]])).tolist()[0][0] == -3
    poses, target = torch.randn(2, 4, 5, dtype=torch.float64), torch.randn(2, 5, dtype=torch.float64)
    recent = torch.tensor([[-2, -1]] * 2)
    old, older = (torch.cat([recent, reframed.offsets(a, there)], 1) for a in (ages, ages * 100))
    assert torch.equal(context_of(reframed, poses, target, old), context_of(reframed, poses, target, older))


def test_without_times_the_newer_of_two_frames_is_not_known() -> None:
    untimed, reframed = small("none", positions="untimed"), small("none")
    ages, there = torch.tensor([[-500, -30]]), torch.ones(1, 2, dtype=torch.bool)
    assert untimed.offsets(ages, there).tolist() == [[-3, -3]]
    poses, target = torch.randn(1, 4, 5, dtype=torch.float64), torch.randn(1, 5, dtype=torch.float64)

    def seen(model: CDiT, ages: torch.Tensor) -> torch.Tensor:
        return context_of(model, poses, target, torch.cat([torch.tensor([[-2, -1]]), model.offsets(ages, there)], 1))

    assert torch.equal(seen(untimed, ages), seen(untimed, ages.flip(1)))
    assert not torch.allclose(seen(reframed, ages), seen(reframed, ages.flip(1)))


def test_pools_of_one_context_are_padded_alike() -> None:
    """WorldPack's 22 x 40 grid: 19 frames cost 1 + 3 x 240/880 + 15 x 60/880 frames, in tokens that really exist."""
    torch.manual_seed(0)
    recent, retrieved = (4,) * 7 + (2,) * 3 + (1,), (4,) * 8
    model = CDiT(CDiTConfig(1, 8, 1, context=recent, retrieved=retrieved), 2, (22, 40), 1.5)
    k = len(recent) + len(retrieved)
    made = model.context(
        torch.randn(1, k, 2, 22, 40), torch.zeros(1, k), -torch.arange(1, k + 1)[None], torch.zeros(1, k, 5).double(),
        torch.ones(1, k, dtype=torch.bool), torch.zeros(1, 5).double(),
    )  # fmt: skip
    tokens = made.keys[0].shape[1] - 1
    assert tokens / 880 == pytest.approx(1 + 3 * 240 / 880 + 15 * 60 / 880)
    assert round(tokens / 880, 3) == 2.841
