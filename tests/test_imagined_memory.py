"""Imagined environments of a (small, untrained) world with a long-term memory: saved, edited, asked what they know."""

from __future__ import annotations

import hashlib
import math
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode
from toy_world import KEYS, STEP, ToyArena, ToyWorld, toy_contexts

from worldloop.envs.experience import Experience
from worldloop.envs.imagined import ImaginedEnv
from worldloop.envs.imagined_vector import ImaginedVectorEnv
from worldloop.errors import ConfigError, WorldFormatError
from worldloop.world_models.config import WorldConfig
from worldloop.world_models.noise import hash64
from worldloop.world_models.perception.autoencoder import AutoencoderConfig
from worldloop.world_models.prediction.config import CDiTConfig
from worldloop.world_models.storage import save_world
from worldloop.world_models.world_model import WorldModel

ARENA = ToyArena(frame_size=(40, 48))
CONTEXTS = toy_contexts(ARENA, length=12)
FORWARD, LEFT = 1, 5


@pytest.fixture(scope="module")
def world() -> WorldModel:
    torch.manual_seed(0)
    cdit = CDiTConfig(2, 32, 2, context=(2, 1), retrieved=(1, 2, 2), camera="rays")
    small = WorldModel(
        WorldConfig((40, 48), KEYS, autoencoder=AutoencoderConfig(channels=4, widths=(8, 8, 8)), cdit=cdit)
    )
    for parameter in small.parameters():
        if not bool(parameter.any()):
            torch.nn.init.normal_(parameter, std=0.05)
    # Of all that an untrained world may say, "the episode is over" would only be in the way.
    torch.nn.init.constant_(small.outcome_head.out.bias, 50.0)
    return small.eval().requires_grad_(False)


def make(world: WorldModel, **settings) -> ImaginedEnv:
    return ImaginedEnv(world, CONTEXTS, **settings)


def view(pose: np.ndarray) -> np.ndarray:
    yaw, pitch = pose[3:]
    return np.array([math.cos(pitch) * math.cos(yaw), math.cos(pitch) * math.sin(yaw), math.sin(pitch)])


def future(env: ImaginedEnv, keys=(1, 1, 5, 1, 3)) -> list[bytes]:
    return [env.step(key)[0].tobytes() for key in keys]


def test_passes_gymnasiums_checker_with_all_there_is_to_see_and_tell(world: WorldModel) -> None:
    env = make(world, observation=("frame", "latent", "pose"), retrieved=True, uncertainty="coverage")
    check_env(env, skip_render_check=True)
    observation, info = env.reset(seed=0)
    assert set(observation) == {"frame", "latent", "pose"} and np.array_equal(observation["pose"], info["pose"])
    alone = make(world, observation="latent")
    assert np.array_equal(alone.reset(seed=0)[0], observation["latent"])


def test_info_names_the_frames_that_memory_gave(world: WorldModel) -> None:
    env = make(world, retrieved=True)
    _, info = env.reset(seed=0)
    assert info["retrieved"].tolist() == [-1] * 3
    poses = dict(enumerate(CONTEXTS.poses[info["context"]]))
    for t in range(12, 18):
        _, _, _, _, info = env.step(FORWARD)
        times = info["retrieved"].tolist()
        assert len(set(times)) == 3 and all(0 <= time < t - 2 for time in times), times
        for time, pose in zip(times, info["retrieved_poses"], strict=True):
            assert np.allclose(pose, poses[time])
        poses[t] = info["pose"]


def test_saved_to_a_file_and_entered_again_in_another_process(world: WorldModel, tmp_path: Path) -> None:
    save_world(world, tmp_path / "world", {})
    CONTEXTS.save(tmp_path / "world" / "contexts.safetensors")
    env = ImaginedEnv(str(tmp_path / "world"))
    env.reset(seed=3)
    future(env)
    assert env.snapshot(tmp_path / "day-one") == (tmp_path / "day-one").read_bytes()
    program = (
        "import sys, hashlib; from worldloop.envs.imagined import ImaginedEnv\n"
        "env = ImaginedEnv(sys.argv[1]); env.restore(sys.argv[2])\n"
        "seen = b''.join(env.step(key)[0].tobytes() for key in (1, 1, 5, 1, 3)) + env.reset()[0].tobytes()\n"
        "print(hashlib.sha256(seen).hexdigest())"
    )
    there = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "world", tmp_path / "day-one"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    here = b"".join(future(env)) + env.reset()[0].tobytes()
    assert there.stdout.strip() == hashlib.sha256(here).hexdigest()


def test_one_world_of_many_goes_on_alone_and_comes_back(world: WorldModel) -> None:
    many, alone = ImaginedVectorEnv(world, 3, CONTEXTS), make(world)
    many.reset(seed=5)
    for _ in range(3):
        many.step(np.array([1, 5, 6]))
    alone.restore(many.snapshot(1))
    twin = ImaginedVectorEnv(world, 1, CONTEXTS)
    twin.restore(alone.snapshot())
    assert np.array_equal(twin.step(np.array([1]))[0][0], alone.step(1)[0])


@pytest.mark.parametrize("where", ["first", "header", "middle", "last"])
def test_a_snapshot_with_one_bit_changed_is_refused_and_changes_nothing(world: WorldModel, where: str) -> None:
    env = make(world)
    env.reset(seed=0)
    saved = env.snapshot()
    spoilt = bytearray(saved)
    spoilt[{"first": 0, "header": 60, "middle": len(saved) // 2, "last": -1}[where]] ^= 1
    for bad in (bytes(spoilt), saved[:-5], b""):
        with pytest.raises(WorldFormatError, match="damaged"):
            env.restore(bad)
    assert env.snapshot() == saved


def test_a_snapshot_of_another_kind_of_world_is_refused_and_changes_nothing(world: WorldModel) -> None:
    torch.manual_seed(7)
    stranger = WorldModel(world.config).eval()
    other = make(stranger)
    other.reset(seed=0)
    env = make(world)
    env.reset(seed=0)
    saved = env.snapshot()
    with pytest.raises(ValueError, match="autoencoder"):
        env.restore(other.snapshot())
    toy = ImaginedEnv(ToyWorld(), toy_contexts(ToyArena()))
    toy.reset(seed=0)
    with pytest.raises(ValueError, match="latents"):
        env.restore(toy.snapshot())
    with pytest.raises(FileNotFoundError):
        env.restore("no-such-file")
    assert env.snapshot() == saved


def test_set_pose_shows_what_the_world_imagines_there_and_counts_no_step(world: WorldModel) -> None:
    env = make(world, max_episode_steps=2, retrieved=True)
    env.reset(seed=0)
    before, goal = env.state, CONTEXTS.poses[0, 3] + 1
    frame, info = env.set_pose(goal)
    _, step = world.imagine(before, [0], goal[None])
    assert np.array_equal(frame, world.render(step.latents)[0].numpy())
    assert np.array_equal(info["pose"], goal)
    assert not env.step(1)[3] and env.step(1)[3]
    with pytest.raises(ValueError, match="finite"):
        env.set_pose([0, 0, 0, math.nan, 0])
    with pytest.raises(ValueError, match="shape"):
        env.set_pose([0, 0])


def test_what_is_forgotten_is_not_given_again(world: WorldModel) -> None:
    env = make(world, retrieved=True)
    env.reset(seed=0)
    centre = CONTEXTS.poses[env.step(0)[4]["context"], 4, :2]
    seen = CONTEXTS.poses[env.step(0)[4]["context"]]
    near = {t for t, p in enumerate(seen) if math.dist(p[:2], centre) <= 2 * STEP}
    assert near & set(env.step(0)[4]["retrieved"].tolist()), "nothing near was given: this case proves nothing"
    before = env.state
    env.forget(centre, 2 * STEP)
    slots, exist = env.state.memory.slots()
    _, times = env.state.memory.arena.read_places(slots)
    old_slots, old = before.memory.slots()
    old_poses, old_times = before.memory.arena.read_places(old_slots)
    past = zip(old_times[old].tolist(), old_poses[old], strict=True)
    assert times[exist].tolist() == [t for t, p in past if math.dist(p[:2], centre) > 2 * STEP]
    for _ in range(4):
        given = set(env.step(FORWARD)[4]["retrieved"].tolist())
        assert not given & near
    env.forget(centre, 1e9)
    assert env.step(0)[4]["retrieved"].tolist() == [-1] * 3
    for centre, radius in (([0], 1.0), ([0, math.inf], 1.0), ([0, 0], 0.0)):
        with pytest.raises(ValueError, match="region"):
            env.forget(centre, radius)


def test_a_remembered_picture_is_given_where_it_was_seen_from(world: WorldModel) -> None:
    env = make(world, retrieved=True)
    env.reset(seed=0)
    env.step(1)
    picture = np.random.default_rng(0).integers(0, 256, (40, 48, 3), dtype=np.uint8)
    place = np.array([5000.0, 5000.0, 0.0, 1.0, 0.0])
    pose, time = env.state.pose.clone(), int(env.state.step)
    env.remember(picture, place)
    assert torch.equal(env.state.pose, pose)
    _, info = env.set_pose([5001.0, *place[1:]])
    assert info["retrieved"][0] == time and np.array_equal(info["retrieved_poses"][0], place)
    latents, _, _ = env.state.memory.arena.read(env.state.memory.slots()[0])
    assert torch.allclose(latents[0, 13], world.encode(picture[None])[0], atol=1e-2)
    # Life goes on: times stay in order, and what is recent is not looked up.
    for _ in range(4):
        info = env.step(1)[4]
        assert info["retrieved"].max() < int(env.state.step) - 1 - 2


def test_editing_needs_a_memory() -> None:
    env = ImaginedEnv(ToyWorld(), toy_contexts(ToyArena()))
    env.reset(seed=0)
    with pytest.raises(ValueError, match="memory"):
        env.forget([0, 0], 10)
    with pytest.raises(ValueError, match="memory"):
        env.remember(np.zeros((36, 48, 3), np.uint8), np.zeros(5))
    with pytest.raises(ConfigError, match="memory"):
        ImaginedEnv(ToyWorld(), toy_contexts(ToyArena()), uncertainty="coverage")


def test_coverage_is_the_distance_to_the_nearest_pose_really_seen(world: WorldModel) -> None:
    env = make(world, uncertainty="coverage")
    env.reset(seed=0)
    for key in (FORWARD, LEFT, FORWARD, FORWARD, LEFT, LEFT):
        _, _, _, _, info = env.step(key)
        expected = math.inf
        for pose in CONTEXTS.poses[info["context"]]:
            angle = math.acos(min(1.0, view(pose) @ view(info["pose"])))
            expected = min(expected, math.hypot(math.dist(pose[:3], info["pose"][:3]) / 80, angle / (math.pi / 4)))
        assert info["uncertainty"] == pytest.approx(expected, rel=1e-4, abs=1e-3)


def test_disagreement_is_the_spread_over_noise_seeds(world: WorldModel) -> None:
    env = make(world, uncertainty="disagreement", uncertainty_samples=3)
    env.reset(seed=0)
    before = env.state
    frame, _, _, _, info = env.step(1)
    plain = make(world)
    plain.reset(seed=0)
    assert np.array_equal(plain.step(1)[0], frame), "asking for uncertainty must change nothing else"
    samples = []
    for i in range(3):
        seeds = before.seeds if i == 0 else hash64(before.seeds ^ hash64(torch.tensor([i])))
        samples.append(world.imagine(before.with_seeds(seeds), [1], info["pose"][None])[1].latents.numpy())
    assert info["uncertainty"] == pytest.approx(float(np.sqrt(np.var(samples, axis=0).mean())), rel=1e-4)
    assert info["uncertainty"] > 0


def test_truncated_where_the_world_is_too_unsure(world: WorldModel) -> None:
    env = make(world, uncertainty="coverage", max_uncertainty=0.5)
    env.reset(seed=0)
    for _ in range(20):
        _, _, terminated, truncated, info = env.step(FORWARD)
        assert truncated == (info["uncertainty"] > 0.5)
        if terminated or truncated:
            break
    assert truncated, "the walk never left what was seen: this case proves nothing"


def test_a_picture_and_its_pose_are_start_enough(world: WorldModel) -> None:
    env = make(world)
    picture = np.random.default_rng(1).integers(0, 256, (40, 48, 3), dtype=np.uint8)
    frame, info = env.start_from(Experience.of_image(picture, [3, 4, 0, 1, 0], world.actions), seed=2)
    assert np.array_equal(frame, world.render(world.encode(picture[None]))[0].numpy())
    assert info["pose"].tolist() == [3, 4, 0, 1, 0] and info["context"] == -1
    assert int(env.state.step) == 1
    again = make(world)
    again.start_from(Experience.of_image(picture, [3, 4, 0, 1, 0], world.actions), seed=2)
    assert future(env) == future(again)
    with pytest.raises(ValueError):
        env.start_from(Experience.of_image(picture[:10], np.zeros(5), world.actions))


def test_many_worlds_start_from_the_same_experience_with_noise_of_their_own(world: WorldModel) -> None:
    many = ImaginedVectorEnv(world, 3, CONTEXTS, autoreset_mode=AutoresetMode.DISABLED)
    piece = Experience(CONTEXTS.frames[1], CONTEXTS.actions[1], CONTEXTS.poses[1])
    frames, infos = many.start_from(piece, seed=4)
    assert (frames == frames[0]).all() and (infos["pose"] == CONTEXTS.poses[1, -1]).all()
    alone = make(world)
    alone.start_from(piece, seed=5)
    assert np.abs(many.step(np.ones(3, np.int64))[0][1].astype(int) - alone.step(1)[0]).max() <= 1
    assert many.state.seeds.unique().numel() == 3


@pytest.mark.parametrize(
    "settings",
    [
        {"observation": ()},
        {"observation": ("frame", "frame")},
        {"observation": ("smell",)},
        {"uncertainty": "none"},
        {"uncertainty": "disagreement", "uncertainty_samples": 1},
        {"max_uncertainty": 0.0},
        {"max_uncertainty": math.nan},
    ],
)
def test_settings_that_mean_nothing_are_refused(world: WorldModel, settings: dict) -> None:
    with pytest.raises(ConfigError):
        make(world, **settings)


def test_a_closed_environment_says_so(world: WorldModel) -> None:
    for env in (make(world), ImaginedVectorEnv(world, 2, CONTEXTS)):
        env.reset(seed=0)
        env.close()
        env.close()
        for call in (env.reset, env.snapshot, lambda env=env: env.step(env.action_space.sample())):
            with pytest.raises(gym.error.ClosedEnvironmentError):
                call()


def test_bad_options_leave_even_the_random_numbers_alone(world: WorldModel) -> None:
    env, twin = make(world), make(world)
    env.reset(seed=1)
    twin.reset(seed=1)
    with pytest.raises(ValueError):
        env.reset(seed=2, options={"weather": "rain"})
    assert env.snapshot() == twin.snapshot() and env.reset()[1]["context"] == twin.reset()[1]["context"]
    assert env.np_random.random() == twin.np_random.random()


def test_contexts_longer_than_the_recent_frames_fill_the_memory(world: WorldModel) -> None:
    env = make(world)
    env.reset(seed=0)
    assert env.state.memory.lengths.tolist() == [12]


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_all_worlds_may_end_at_once(world: WorldModel, mode: AutoresetMode) -> None:
    many = ImaginedVectorEnv(world, 3, CONTEXTS, max_episode_steps=2, autoreset_mode=mode)
    many.reset(seed=0)
    ends = [many.step(np.ones(3, np.int64))[3].tolist() for _ in range(5)]
    over, on = [True] * 3, [False] * 3
    assert ends == ([on, over, on, on, over] if mode is AutoresetMode.NEXT_STEP else [on, over, on, over, on])


def test_curiosity_pays_for_what_is_new_to_memory_and_once(world):
    plain, curious = make(world), make(world, curiosity=0.1)
    known = [np.asarray(pose) for pose in CONTEXTS.poses[2]]
    for env in (plain, curious):
        env.reset(seed=1, options={"context": 2})
    bonuses = []
    for key in (FORWARD, FORWARD, LEFT, LEFT, FORWARD, 0):
        (_, paid, *_, info), (_, more, *_) = plain.step(key), curious.step(key)
        pose = np.asarray(info["pose"])
        apart = [
            math.hypot(math.dist(pose[:3], other[:3]) / 80, math.acos(min(1, view(pose) @ view(other))) / (math.pi / 4))
            for other in known
        ]
        bonuses.append(float(more) - float(paid))
        assert bonuses[-1] == pytest.approx(0.1 * min(1, *apart), abs=1e-4)
        known.append(pose)
    assert max(bonuses) > 0.01 and min(bonuses) < 0.005
    for none in (ToyWorld(ARENA), -0.1):
        with pytest.raises(ConfigError, match="curiosity is above 0"):
            ImaginedEnv(none, CONTEXTS, curiosity=0.1) if isinstance(none, ToyWorld) else make(world, curiosity=none)
