"""Stable-Baselines3 in imagination and in the real world: what it learns, how it goes on, and what is refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from unittest import mock

import imageio.v3 as iio
import numpy as np
import pytest

pytest.importorskip("stable_baselines3", reason="needs Stable-Baselines3: pip install stable-baselines3")

import torch
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecTransposeImage
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_agents_toy import (
    DISCOUNT,
    KEYS_ARENA,
    PLANE,
    PLANE_ARENA,
    fewest_keys,
    fewest_vectors,
    mean_return,
    starts_in,
)
from toy_world import AXES, KEYS, ToyArena, ToyEnv, ToyWorld, toy_contexts, walk

from worldloop.agents.actor_critic import ActorCriticConfig
from worldloop.agents.agent import Agent, load_agent
from worldloop.agents.cloning import Recorded
from worldloop.agents.frame_stack import FrameStack
from worldloop.agents.heads import HeadsConfig
from worldloop.agents.real_evaluation import RealEvaluation
from worldloop.agents.sb3 import sb3_agent, train_in_reality, train_with_sb3
from worldloop.agents.sb3_config import Sb3Config
from worldloop.agents.sb3_heads import Sb3Heads, Sb3Shape
from worldloop.agents.train import TrainAgentConfig, train_agent
from worldloop.agents.training import agent_training, train_in_imagination
from worldloop.agents.trials import RealTrials, TrialsConfig
from worldloop.envs.sb3 import ImaginedVecEnv
from worldloop.errors import ConfigError, WorldFormatError
from worldloop.evaluation.transfer import TransferConfig, evaluate_transfer
from worldloop.rollouts.cache import TrainingCache
from worldloop.rollouts.episode import Episode
from worldloop.rollouts.metadata import DatasetInfo
from worldloop.rollouts.store import DatasetWriter, open_dataset
from worldloop.world_models.training.config import StageConfig
from worldloop.world_models.training.fit import Diverged

pytestmark = pytest.mark.filterwarnings("ignore:Nothing was ever paid")

ARENA = ToyArena(size=200.0, goal=(140.0, 140.0), goal_radius=40.0)
SMALL = Sb3Config(
    envs=4, batch_size=32, width=16, layers=1, rollout=8, epochs=2, target_interval=40, checkpoint_every=64
)


class RealToy(ToyEnv):
    """The toy arena as a real environment that can be recorded, saved and loaded."""

    def __init__(self, arena: ToyArena = ARENA, max_episode_steps: int = 12) -> None:
        super().__init__(arena, max_episode_steps)
        self.action_spec = arena.actions

    def save_state(self) -> bytes:
        state = {"pose": self._pose.tolist(), "elapsed": self._elapsed, "random": self.np_random.bit_generator.state}
        return json.dumps(state).encode()

    def load_state(self, data: bytes) -> None:
        state = json.loads(data)
        self.set_pose(state["pose"])
        self._elapsed = state["elapsed"]
        self.np_random.bit_generator.state = state["random"]


def train(out: Path, algorithm="PPO", world=None, steps: int = 256, config: Sb3Config = SMALL, **more):
    world = world or ToyWorld(ARENA)
    return train_with_sb3(world, toy_contexts(world.arena), out, algorithm, steps, 12, config, **more)


def parameters(agent: Agent) -> list[torch.Tensor]:
    return [p.detach().clone() for p in agent.heads.parameters()]


def curve(out: Path, name: str) -> list[tuple[int, float]]:
    """Points of all event files of a run; where it was taken up again, steps may come twice."""
    points = {}
    for path in sorted((out / "tensorboard").iterdir()):
        events = EventAccumulator(str(path)).Reload()
        if name in events.Tags()["scalars"]:
            points |= {event.step: event.value for event in events.Scalars(name)}
    return sorted(points.items())


LEARNERS = {
    "PPO, keys": ("PPO", KEYS_ARENA, 50_000, Sb3Config(32, 2e-3, DISCOUNT, 256, 64, 2, 32)),
    "DQN, keys": ("DQN", KEYS_ARENA, 20_000, Sb3Config(16, 2e-3, DISCOUNT, 128, 64, 2, target_interval=500)),
    "PPO, vectors": ("PPO", PLANE_ARENA, 40_000, Sb3Config(32, 2e-3, DISCOUNT, 256, 64, 2, 32, 10, 0.0)),
}


@pytest.mark.parametrize(
    "who", [pytest.param(who, marks=() if who == "PPO, keys" else pytest.mark.slow) for who in LEARNERS]
)
def test_what_it_learns_in_imagination_is_most_of_the_best_there_is(who: str, tmp_path: Path) -> None:
    algorithm, arena, steps, config = LEARNERS[who]
    world, held_out = ToyWorld(arena), starts_in(arena, 48, seed=1)
    fewest = fewest_vectors if arena.actions is PLANE else fewest_keys
    best = float(np.mean([DISCOUNT ** (fewest(arena, pose) - 1) for pose in held_out.poses[:, -1]]))
    agent = train_with_sb3(world, starts_in(arena, 400, seed=0), tmp_path, algorithm, steps, 20, config)
    assert agent is not None
    earned = mean_return(world, agent, held_out)
    assert 0.9 * best <= earned <= best + 1e-6, (earned, best)


@pytest.mark.parametrize("algorithm", ["PPO", "A2C", "DQN"])
def test_a_run_that_was_stopped_goes_on_to_the_same_agent_and_the_same_curve(algorithm, tmp_path: Path) -> None:
    noisy = ToyWorld(ARENA, noise=4.0)
    whole = train(tmp_path / "whole", algorithm, noisy, 640)
    assert train(tmp_path / "parts", algorithm, noisy, 640, stop_after=200) is None
    assert train(tmp_path / "parts", algorithm, noisy, 640, stop_after=201) is None
    torch.rand(7), np.random.rand(3)  # noqa: NPY002  (another process would have other global generators)
    parts = train(tmp_path / "parts", algorithm, noisy, 640)
    assert all(torch.equal(a, b) for a, b in zip(parameters(whole), parameters(parts), strict=True))
    for name in ("rollout/ep_rew_mean", "rollout/ep_len_mean"):
        points = curve(tmp_path / "whole", name)
        assert len(points) >= 4 and points == curve(tmp_path / "parts", name)
    again = train(tmp_path / "parts", algorithm, noisy, 640)
    assert all(torch.equal(a, b) for a, b in zip(parameters(again), parameters(parts), strict=True)), "it is finished"


def test_a_finished_run_goes_on_where_more_steps_are_asked_for(tmp_path: Path) -> None:
    whole, short = train(tmp_path / "whole", steps=640), train(tmp_path / "parts", steps=320)
    assert not all(torch.equal(a, b) for a, b in zip(parameters(whole), parameters(short), strict=True))
    more = train(tmp_path / "parts", steps=640)
    assert all(torch.equal(a, b) for a, b in zip(parameters(whole), parameters(more), strict=True))
    assert curve(tmp_path / "whole", "rollout/ep_rew_mean") == curve(tmp_path / "parts", "rollout/ep_rew_mean")
    with pytest.raises(ConfigError, match="640 steps already, more than 320"):
        train(tmp_path / "parts", steps=320)
    # DQN explores for a share of its steps: with more of them it is another run.
    train(tmp_path / "DQN", "DQN", steps=64)
    with pytest.raises(ConfigError, match="another configuration"):
        train(tmp_path / "DQN", "DQN", steps=96)


@pytest.mark.parametrize("algorithm", ["PPO", "A2C", "DQN"])
def test_a_learning_rate_that_falls_is_the_same_after_an_interruption(algorithm, tmp_path: Path) -> None:
    falling = replace(SMALL, schedule="linear", learning_rate=1e-2)
    whole = train(tmp_path / "whole", algorithm, steps=640, config=falling)
    assert train(tmp_path / "parts", algorithm, steps=640, config=falling, stop_after=200) is None
    parts = train(tmp_path / "parts", algorithm, steps=640, config=falling)
    assert all(torch.equal(a, b) for a, b in zip(parameters(whole), parameters(parts), strict=True))
    told = curve(tmp_path / "whole", "train/learning_rate")
    assert len(told) >= 4
    # What is told is that of the last update, at most a roll-out of 32 steps ago.
    assert all(-1e-6 <= rate / 1e-2 - (1 - step / 640) <= 32 / 640 + 1e-6 for step, rate in told), told
    with pytest.raises(ConfigError, match="another configuration"):
        train(tmp_path / "whole", algorithm, steps=960, config=falling)


def test_a_run_in_the_real_world_goes_on_to_the_same_agent(tmp_path: Path) -> None:
    whole = train_in_reality(RealToy, tmp_path / "whole", 320, SMALL)
    assert train_in_reality(RealToy, tmp_path / "parts", 320, SMALL, stop_after=100) is None
    parts = train_in_reality(RealToy, tmp_path / "parts", 320, SMALL)
    assert all(torch.equal(a, b) for a, b in zip(parameters(whole), parameters(parts), strict=True))
    assert curve(tmp_path / "whole", "rollout/ep_rew_mean") == curve(tmp_path / "parts", "rollout/ep_rew_mean")


def test_ctrl_c_saves_what_was_learned(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole")

    def press(progress, watched) -> None:
        if progress.step == 100:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "pressed", watch=press)
    seen: list[int] = []
    pressed = train(tmp_path / "pressed", watch=lambda progress, watched: seen.append(progress.step))
    assert seen[0] == 132, "the roll-out in flight was finished"
    assert all(torch.equal(a, b) for a, b in zip(parameters(whole), parameters(pressed), strict=True))


def test_tensorboard_shows_imagined_lives_and_what_the_critic_expects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[float] = []
    learn_from = PPO.train

    def watched(model: PPO) -> None:
        seen = torch.from_numpy(model.rollout_buffer.observations).flatten(0, 1)
        with torch.no_grad():
            told.append(float(model.policy.predict_values(seen).mean()))
        learn_from(model)

    monkeypatch.setattr(PPO, "train", watched)
    shown = train(tmp_path / "shown", film_every=100)
    monkeypatch.undo()
    plain = train(tmp_path / "plain", film_every=10**9)
    assert shown is not None and plain is not None
    for a, b in zip(parameters(shown), parameters(plain), strict=True):
        assert torch.equal(a, b), "pictures change nothing"
    (path,) = (tmp_path / "shown" / "tensorboard").iterdir()
    events = EventAccumulator(str(path), size_guidance={"images": 0}).Reload()
    images = events.Images("imagined/lives")
    # Written with the curves of the roll-out of 32 steps that they came before; the last at the end.
    assert [image.step for image in images] == [32, 160, 256, 256]
    assert {(image.height, image.width) for image in images} == {(4 * 36, 13 * 48)}
    last = iio.imread(images[-1].encoded_image_string)
    for life in range(4):
        assert np.array_equal(last[life * 36 : life * 36 + 36, :48], toy_contexts(ARENA).frames[life, -1])
    assert dict(curve(tmp_path / "shown", "rollout/value")) == {
        step: pytest.approx(value) for step, value in zip(range(32, 257, 32), told, strict=True)
    }


def test_real_steps_are_counted_and_told_apart(tmp_path: Path) -> None:
    made: list[CountedToy] = []

    class CountedToy(RealToy):
        def __init__(self) -> None:
            super().__init__()
            self.stepped = 0
            made.append(self)

        def step(self, action):
            self.stepped += 1
            return super().step(action)

    trials = RealTrials(CountedToy, TrialsConfig(every=64, episodes=3, envs=2), tmp_path)
    train_in_reality(CountedToy, tmp_path, 150, SMALL, trials=trials)
    told = json.loads((tmp_path / "agent" / "agent.json").read_text())["about"]["steps"]
    # 32 steps make a roll-out of all environments, so 150 are 160.
    assert told == {"real": 160, "real, in trials": trials.real_steps}
    assert sum(env.stepped for env in made) == 160 + trials.real_steps


NET = Sb3Shape("PPO", (4,), (16, 16))


@pytest.mark.parametrize("shape", [NET, replace(NET, algorithm="A2C"), replace(NET, algorithm="DQN")],
                         ids=lambda shape: shape.algorithm)  # fmt: skip
def test_heads_decide_and_value_as_the_network_of_stable_baselines_does(shape: Sb3Shape) -> None:
    torch.manual_seed(0)
    heads, vectors = Sb3Heads(shape, KEYS, Sb3Config()), torch.randn(3, 50, 4)
    net = heads.policy.net
    with torch.no_grad():
        seen = vectors.numpy().reshape(-1, 4)
        assert np.array_equal(heads.policy.best(vectors).flatten().numpy(), net.predict(seen, deterministic=True)[0])
        chances = heads.policy.probabilities(vectors)
        assert torch.allclose(chances.sum(-1), torch.ones(3, 50))
        if shape.algorithm == "DQN":
            worth = net.q_net(torch.from_numpy(seen)).amax(-1)
            assert torch.allclose(chances.amax(-1), torch.tensor(0.95 + 0.05 / 7))
        else:
            worth = net.predict_values(torch.from_numpy(seen)).flatten()
        assert torch.equal(heads.critic.value(vectors).flatten(), worth)
        # Drawn by evenly spread numbers, keys come as often as they are likely.
        even = (torch.arange(4000) + 0.5) / 4000
        drawn = heads.policy.act(vectors[0, :1].expand(4000, -1), even.unsqueeze(1).expand(-1, KEYS.n))
        assert torch.allclose(torch.bincount(drawn, minlength=7) / 4000, chances[0, 0], atol=1e-3)
        every = torch.arange(7)
        assert torch.allclose(heads.policy.log_prob(vectors[0, :1].expand(7, -1), every).exp(), chances[0, 0])
        assert torch.allclose(heads.policy.entropy(vectors), -(chances * chances.log()).sum(-1), atol=1e-5)


def test_vectors_are_drawn_from_its_normal_distribution_and_cut_to_the_bounds() -> None:
    torch.manual_seed(0)
    heads = Sb3Heads(NET, AXES, Sb3Config())
    vectors = torch.randn(1, 4).expand(4000, -1)
    with torch.no_grad():
        numbers = torch.rand(4000, AXES.n)
        drawn, chances = heads.policy.act(vectors, numbers), heads.policy.distribution(vectors)
        assert torch.allclose(chances.cdf(drawn)[drawn.abs() < 1], numbers[drawn.abs() < 1], atol=1e-4)
        assert float(drawn.abs().max()) == 1
        best, _ = heads.policy.net.predict(vectors[:1].numpy(), deterministic=True)
        assert np.allclose(heads.policy.best(vectors[:1]).numpy(), best, atol=1e-6)
        with pytest.raises(ConfigError, match="acts by vectors"):
            heads.policy.probabilities(vectors)


@pytest.mark.parametrize("algorithm", ["PPO", "DQN"])
def test_a_saved_agent_acts_alike_in_a_new_process(algorithm, tmp_path: Path) -> None:
    agent = train(tmp_path, algorithm, steps=64)
    assert {path.suffix for path in (tmp_path / "agent").iterdir()} == {".json", ".safetensors"}
    code = f"""
import sys, numpy as np
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_agents_sb3 import ARENA, ToyWorld, acted, load_agent
print(acted(load_agent({str(tmp_path / "agent")!r}, ToyWorld(ARENA), seed=5)))
"""
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    agent.seed = 5
    assert there.splitlines()[-1] == acted(agent)


def acted(agent: Agent) -> str:
    """What an agent does in three real places, by likelihood and by chance."""
    envs, said, state = [RealToy() for _ in range(3)], [], None
    frames, infos = zip(*(env.reset(seed=i) for i, env in enumerate(envs)), strict=True)
    for deterministic in (True, False, False, False, True):
        seen = {"frame": np.stack(frames), "pose": np.stack([info["pose"] for info in infos])}
        actions, state = agent.predict(seen, state, deterministic=deterministic)
        said.append(actions.tolist())
        frames, _, _, _, infos = zip(*(env.step(a) for env, a in zip(envs, actions, strict=True)), strict=True)
    return str(said)


def test_a_stack_of_frames_is_what_stable_baselines_makes_of_them(tmp_path: Path) -> None:
    envs = VecTransposeImage(VecFrameStack(DummyVecEnv([RealToy] * 3), 4))
    envs.seed(0)
    stacked, stack = envs.reset(), FrameStack(ARENA.frame_size, KEYS)
    real = [RealToy() for _ in range(3)]
    begun = [env.reset(seed=i) for i, env in enumerate(real)]
    state, rng, ended = stack.start(3), np.random.default_rng(0), 0
    frames, infos = [frame for frame, _ in begun], [info for _, info in begun]
    for _ in range(30):
        poses = np.stack([info["pose"] for info in infos])[:, None]
        state = stack.observe(state, np.stack(frames)[:, None], np.zeros((3, 1), int), poses)
        assert np.array_equal(stack.encode_state(state).view(3, 12, *ARENA.frame_size).numpy(), stacked)
        actions = rng.integers(7, size=3)
        stacked, _, done, _ = envs.step(actions)
        for i, env in enumerate(real):
            frames[i], _, _, _, infos[i] = env.step(actions[i])
            if done[i]:
                frames[i], infos[i] = env.reset()
        state, ended = stack.start(3).where(torch.from_numpy(done), state), ended + done.sum()
    assert ended >= 3
    assert torch.equal(stack.render(stack.encode(np.stack(frames))), torch.from_numpy(np.stack(frames)))


def test_an_agent_of_frames_needs_no_world_and_is_compared_with_others(tmp_path: Path) -> None:
    train_in_reality(RealToy, tmp_path / "real", 64, SMALL)
    train(tmp_path / "imagined", steps=64)
    alone = load_agent(tmp_path / "real" / "agent")
    assert isinstance(alone.world, FrameStack) and alone.heads.size == 4 * 3 * 36 * 48
    report = evaluate_transfer(
        alone.world, {"real": alone, "imagined": load_agent(tmp_path / "imagined" / "agent", ToyWorld(ARENA))},
        TransferConfig(tasks=("find-near",), episodes=4, envs=2), make_env=lambda task: RealToy(),
    )  # fmt: skip
    assert {row.name for row in report.rows} == {"real", "imagined", "random"}
    with pytest.raises(ConfigError, match="no world to imagine in"):
        alone.world.imagine(alone.begin(1).world, [0])
    with pytest.raises(ValueError, match="Expected frames"):
        alone.predict({"frame": np.zeros((20, 48, 3), np.uint8), "pose": np.zeros(5)})


class Still:
    """Always does the same."""

    def __init__(self, key: int) -> None:
        self.key = key

    def predict(self, observation, state=None, episode_start=None, deterministic=True):
        return np.full(len(observation["frame"]), self.key), state


class Corridor(RealToy):
    """The goal lies ahead: forward finds it, anything else does not."""

    def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed, options={"pose": [140, 30, 0, np.pi / 2, 0]})


def test_trials_tell_success_keep_the_best_and_replace_what_an_interruption_left(tmp_path: Path) -> None:
    trials = RealTrials(Corridor, TrialsConfig(every=100, episodes=3, envs=2, enough=0.9), tmp_path)
    assert [step for step in range(1, 400) if trials.due(step - 1, step)] == [100, 200, 300]
    assert trials.due(96, 104) and not trials.due(104, 112)
    kept: list[int] = []

    def run(key: int, step: int):
        return trials.run(Still(key), step, lambda directory: kept.append(step))

    lost, won = run(0, 100), run(1, 200)
    assert (lost.success, lost.reward, lost.length, lost.played) == (0, 0, 12, 36)
    # From y = 30 the third step ends within 40 of y = 140.
    assert (won.success, won.reward, won.length, won.played) == (1, 1, 3, 9)
    assert not trials.enough(lost) and trials.enough(won)
    run(1, 300)
    assert kept == [100, 200], "only what is better than all before"
    later = RealTrials(Corridor, TrialsConfig(every=100, episodes=3), tmp_path)
    assert later.trials == trials.trials
    later.run(Still(1), 200, lambda directory: None)
    assert [trial.step for trial in RealTrials(Corridor, TrialsConfig(), tmp_path).trials] == [100, 200]


def test_a_callback_tries_the_agent_for_real_and_ends_training_without_changing_it(tmp_path: Path) -> None:
    """A model of its user's own, as it comes."""
    world = ToyWorld(ARENA)

    def model() -> PPO:
        envs = ImaginedVecEnv(world, 4, toy_contexts(ARENA), 12, "state")
        return PPO("MlpPolicy", envs, n_steps=16, batch_size=32, seed=3, device="cpu")

    untouched = model().learn(256)
    tried = model()
    trials = RealTrials(RealToy, TrialsConfig(every=100, episodes=3), tmp_path)
    tried.learn(256, RealEvaluation(lambda model: sb3_agent(model, world), trials))
    assert [trial.step for trial in trials.trials] == [100, 200]
    for a, b in zip(untouched.policy.parameters(), tried.policy.parameters(), strict=True):
        assert torch.equal(a, b)
    best = load_agent(tmp_path / "best", world)
    assert best.heads.shape == Sb3Shape("PPO", (4,), (64, 64)) and best.heads.config.discount == 0.99
    easy = RealTrials(Corridor, TrialsConfig(every=100, episodes=2, enough=0.5), tmp_path / "easy")
    ended = model()
    with mock.patch.object(Agent, "predict", Still(1).predict):
        callback = RealEvaluation(lambda model: sb3_agent(model, world), easy)
        ended.learn(256, callback)
    assert callback.stopped and ended.num_timesteps == 100


def test_our_own_training_is_tried_by_the_same_trials_and_unchanged_by_them(tmp_path: Path) -> None:
    world, contexts = ToyWorld(ARENA), toy_contexts(ARENA)
    config = ActorCriticConfig(HeadsConfig(width=16, members=2, bins=21), horizon=4, first_horizon=2)
    training = replace(agent_training(8), batch_size=6)
    plain = train_in_imagination(world, contexts, tmp_path / "plain", config, training)
    trials = RealTrials(RealToy, TrialsConfig(every=3, episodes=2), tmp_path / "tried")
    tried = train_in_imagination(world, contexts, tmp_path / "tried", config, training, trials=trials)
    assert all(torch.equal(a, b) for a, b in zip(parameters(plain), parameters(tried), strict=True))
    assert [trial.step for trial in trials.trials] == [3, 6]
    assert [step for step, _ in curve(tmp_path / "tried", "real/success")] == [3, 6]
    best = json.loads((tmp_path / "tried" / "best" / "agent.json").read_text())["about"]["steps"]
    assert best in (3, 6) and load_agent(tmp_path / "tried" / "best", world)
    easy = RealTrials(Corridor, TrialsConfig(every=3, episodes=2, enough=0.5), tmp_path / "easy")
    with mock.patch.object(Agent, "predict", Still(1).predict):
        train_in_imagination(world, contexts, tmp_path / "easy", config, training, trials=easy)
    assert json.loads((tmp_path / "easy" / "agent" / "agent.json").read_text())["about"]["steps"] == 3


class Broken(ToyWorld):
    """Pays NaN from some imagined batch on."""

    def imagine(self, state, actions, pose=None):
        after, step = super().imagine(state, actions, pose)
        # Twelve are those of the first picture of imagined lives.
        late = len(self.imagined_batches) > 12 + 40
        return after, replace(step, reward=torch.full_like(step.reward, float("nan"))) if late else step


@pytest.mark.parametrize("algorithm", ["PPO", "DQN"])
def test_where_the_world_or_the_training_goes_wrong_the_last_good_checkpoint_stays(algorithm, tmp_path: Path) -> None:
    with pytest.raises(Diverged, match=r"by step 16\d: the world gave .*\. The checkpoint of step 128 is kept"):
        train(tmp_path / "world", algorithm, Broken(ARENA))
    assert not (tmp_path / "world" / "agent").exists()
    # As it was kept, in a world that is whole again, it goes on.
    assert train(tmp_path / "world", algorithm) is not None
    with pytest.raises(Diverged, match=r"lower the learning rate\. There is no checkpoint yet"):
        train(tmp_path / "rate", algorithm, config=replace(SMALL, learning_rate=1e30, checkpoint_every=10_000))
    assert not (tmp_path / "rate" / "sb3.safetensors").exists()


def recorded_turns(path: Path, n: int = 12) -> Recorded:
    """Walkers that turn always the same way, and are paid at the end of their walk."""
    writer = DatasetWriter.create(path, DatasetInfo("toy", {}, ARENA.frame_size, KEYS, "train"))
    rng, length = np.random.default_rng(0), 6
    for seed in range(n):
        pose = np.array([rng.uniform(20, 180), rng.uniform(20, 180), 0, rng.uniform(-3, 3), 0])
        actions, no = np.full(length, 5), np.zeros(length, bool)
        frames, track = walk(ARENA, pose, actions[1:])
        rewards = np.eye(length, dtype=np.float32)[-1]
        writer.add(Episode(frames[0].numpy(), actions, track[0].numpy(), rewards, no, no, no, no, seed))
    return Recorded(TrainingCache.of(open_dataset(path)), 200, context=4, shortest=1)


IMITATING = StageConfig(200, batch_size=64, learning_rate=5e-3, warmup=5, weight_decay=0.0, ema=0.9)


@pytest.mark.parametrize("algorithm", ["PPO", "A2C"])
def test_a_run_may_begin_with_what_was_done_and_what_came_of_it(algorithm, tmp_path: Path) -> None:
    recorded, world = recorded_turns(tmp_path / "data"), ToyWorld(ARENA)
    still = replace(SMALL, learning_rate=1e-12)
    agent = train(tmp_path / "run", algorithm, world, 32, still, imitated=recorded, imitating=IMITATING)
    plain = train(tmp_path / "plain", algorithm, world, 32, still)
    chosen = recorded.choices(world, seed=3, discount=SMALL.discount)
    with torch.no_grad():
        assert float(agent.heads.policy.probabilities(chosen.vectors)[:, 5].min()) > 0.9
        told = agent.heads.critic.value(chosen.vectors)
        before = plain.heads.policy.probabilities(chosen.vectors)[:, 5]
    # State vectors do not tell how far the reward is: the mean is the best there is.
    assert float(told.mean()) == pytest.approx(float(chosen.returns.mean()), abs=0.1)
    assert float(before.max()) < 0.5


def test_our_own_agents_may_begin_so_too_and_go_on_to_the_same_agent(tmp_path: Path) -> None:
    recorded, world, contexts = recorded_turns(tmp_path / "data"), ToyWorld(ARENA), toy_contexts(ARENA)
    config = ActorCriticConfig(HeadsConfig(width=16, members=2, bins=21), horizon=4, first_horizon=2, discount=0.9)
    still, moving = (replace(agent_training(8), batch_size=6, learning_rate=rate) for rate in (1e-12, 1e-2))
    begin = {"imitated": recorded, "imitating": IMITATING}
    agent = train_in_imagination(world, contexts, tmp_path / "still", config, still, **begin)
    chosen = recorded.choices(world, seed=3, discount=config.discount)
    with torch.no_grad():
        assert float(agent.heads.policy.probabilities(chosen.vectors)[:, 5].min()) > 0.9
        for critic in (agent.heads.critic, agent.heads.target):
            told = critic.value(chosen.vectors)
            assert float(told.mean()) == pytest.approx(float(chosen.returns.mean()), abs=0.1)
    whole = train_in_imagination(world, contexts, tmp_path / "whole", config, moving, **begin)
    assert train_in_imagination(world, contexts, tmp_path / "parts", config, moving, stop_after=3, **begin) is None
    # What it began with is in the checkpoint now.
    (tmp_path / "parts" / "cloning.safetensors").unlink()
    parts = train_in_imagination(world, contexts, tmp_path / "parts", config, moving, **begin)
    assert all(torch.equal(a, b) for a, b in zip(parameters(whole), parameters(parts), strict=True))
    with pytest.raises(ConfigError, match="another configuration"):
        train_in_imagination(world, contexts, tmp_path / "parts", config, moving)
    with pytest.raises(ConfigError, match="other actions or frames"):
        axes = replace(ARENA, actions=AXES)
        train_in_imagination(ToyWorld(axes), toy_contexts(axes), tmp_path / "axes", config, moving, **begin)


@pytest.mark.parametrize("config", [SMALL, replace(SMALL, tokens=True)], ids=["vectors", "tokens"])
def test_a_run_that_began_by_imitating_goes_on_to_the_same_agent(tmp_path: Path, config: Sb3Config) -> None:
    recorded, noisy = recorded_turns(tmp_path / "data"), ToyWorld(ARENA, noise=4.0)
    noisy.state_tokens = (1, 2)
    begin = {"imitated": recorded, "imitating": IMITATING, "config": config}
    whole = train(tmp_path / "whole", world=noisy, steps=640, **begin)

    def interrupt(progress, watched) -> None:
        if (progress.stage, progress.step) == ("cloning", 120):
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "parts", world=noisy, steps=640, watch=interrupt, **begin)
    assert not (tmp_path / "parts" / "sb3.safetensors").exists()
    assert train(tmp_path / "parts", world=noisy, steps=640, stop_after=300, **begin) is None
    # What it began with is in the checkpoint now.
    (tmp_path / "parts" / "cloning.safetensors").unlink()
    parts = train(tmp_path / "parts", world=noisy, steps=640, **begin)
    assert all(torch.equal(a, b) for a, b in zip(parameters(whole), parameters(parts), strict=True))
    with pytest.raises(ConfigError, match="another configuration"):
        train(tmp_path / "parts", world=noisy, steps=640, config=config)


def test_imitating_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    recorded = recorded_turns(tmp_path / "data")
    with pytest.raises(ConfigError, match="choose PPO or A2C"):
        train(tmp_path / "run", "DQN", imitated=recorded)
    with pytest.raises(ConfigError, match="other actions or frames"):
        train(tmp_path / "run", world=ToyWorld(replace(ARENA, actions=AXES)), imitated=recorded)
    assert not (tmp_path / "run").exists()


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    axes = ToyWorld(replace(ARENA, actions=AXES))
    with pytest.raises(ConfigError, match="choose PPO or A2C"):
        train(tmp_path, "DQN", axes)
    with pytest.raises(ConfigError, match="algorithm is one of PPO, A2C, DQN; got 'SAC'"):
        train(tmp_path, "SAC")
    blind = ToyWorld(ARENA)
    blind.state_size = 0
    with pytest.raises(ConfigError, match="state vectors"):
        train(tmp_path, world=blind)
    with pytest.raises(ConfigError, match="recorded starts"):
        train_with_sb3(ToyWorld(replace(ARENA, frame_size=(40, 48))), toy_contexts(ARENA), tmp_path)
    assert not (tmp_path / "run.json").exists(), "nothing has been begun"
    train(tmp_path, steps=32)
    with pytest.raises(ConfigError, match="another configuration"):
        train(tmp_path, steps=32, seed=1)
    with pytest.raises(ConfigError, match="NatureCNN needs frames"):
        train_in_reality(lambda: RealToy(replace(ARENA, frame_size=(20, 48))), tmp_path / "r", 32, SMALL)
    for wrong in ({"envs": 0}, {"discount": 1.5}, {"learning_rate": 0.0}, {"rollout": -1}):
        with pytest.raises(ConfigError):
            Sb3Config(**wrong)
    for wrong in ({"every": -1}, {"episodes": 0}, {"enough": 1.5}):
        with pytest.raises(ConfigError):
            TrialsConfig(**wrong)


def test_a_world_that_never_pays_is_told_of(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="Nothing was ever paid"):
        train(tmp_path, world=ToyWorld(replace(ARENA, goal=(5000.0, 5000.0))), steps=64)


def test_models_that_make_no_agent_are_refused() -> None:
    world = ToyWorld(ARENA)

    def ppo(observation="state", **networks) -> PPO:
        envs = ImaginedVecEnv(world, 2, toy_contexts(ARENA), 12, observation)
        return PPO("MlpPolicy", envs, n_steps=4, batch_size=8, device="cpu", policy_kwargs=networks)

    with pytest.raises(ConfigError, match="state vectors or stacked frames"):
        sb3_agent(ppo("latent"), world)
    class Other(ToyWorld):
        state_size = 5

    with pytest.raises(ConfigError, match=r"knows states of 4 numbers.*the world has 5"):
        sb3_agent(ppo(), Other(ARENA))
    with pytest.raises(ConfigError, match="plain networks"):
        sb3_agent(ppo(activation_fn=torch.nn.ELU), world)
    with pytest.raises(ConfigError, match="plain networks"):
        sb3_agent(ppo(net_arch={"pi": [8], "vf": [16]}), world)
    axes = replace(ARENA, actions=AXES)
    with pytest.raises(ConfigError, match="takes the actions"):
        sb3_agent(ppo(), ToyWorld(axes))
    soft = SAC("MlpPolicy", ImaginedVecEnv(ToyWorld(axes), 1, toy_contexts(axes), 12, "state"), buffer_size=10)
    with pytest.raises(ConfigError, match="one of SAC"):
        sb3_agent(soft, ToyWorld(axes))


def test_damaged_files_are_named(tmp_path: Path) -> None:
    train(tmp_path, steps=64)
    description = json.loads((tmp_path / "agent" / "agent.json").read_text())
    description["shape"]["hidden"] = [32]
    (tmp_path / "agent" / "agent.json").write_text(json.dumps(description))
    with pytest.raises(WorldFormatError, match="its weights are not those of PPO"):
        load_agent(tmp_path / "agent", ToyWorld(ARENA))
    checkpoint = tmp_path / "sb3.safetensors"
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    with pytest.raises(WorldFormatError, match=r"checkpoint .* is damaged"):
        train(tmp_path, steps=64)


def test_without_sb3_an_agent_of_it_says_what_to_install(tmp_path: Path) -> None:
    train(tmp_path, steps=32)
    code = f"""
import sys
sys.modules["stable_baselines3"] = None
from worldloop.agents import load_agent, train_agent, TrainAgentConfig
load_agent({str(tmp_path / "agent")!r})
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "ConfigError" in result.stderr and "pip install stable-baselines3" in result.stderr


def test_ppo_in_the_real_rooms_from_beginning_to_end(tmp_path: Path) -> None:
    tiny = replace(SMALL, envs=2, rollout=16, batch_size=16, epochs=1)
    whole = TrainAgentConfig(tmp_path / "whole", method="ppo-real", real_steps=64, real=tiny)
    config = TrainAgentConfig(
        tmp_path, method="ppo-real", real_steps=64, real=tiny, trials=TrialsConfig(every=64, episodes=2, envs=2)
    )
    assert train_agent(replace(config, stop_after=32)) is None
    assert train_agent(config, "a command") == tmp_path / "agent"
    told = json.loads((tmp_path / "agent" / "agent.json").read_text())["about"]
    assert told["steps"]["real"] == 64 and told["command"] == "a command"
    assert told["steps"]["real, in trials"] == json.loads((tmp_path / "trials.json").read_text())[0]["played"] > 0
    agent = load_agent(tmp_path / "agent")
    assert train_agent(whole) is not None
    for a, b in zip(parameters(agent), parameters(load_agent(tmp_path / "whole" / "agent")), strict=True):
        assert torch.equal(a, b)
    report = evaluate_transfer(
        agent.world, {"real": agent}, TransferConfig(tasks=("find-near",), episodes=2, envs=2, max_steps=5)
    )
    assert [row.name for row in report.rows] == ["real", "random"]


@pytest.mark.parametrize("algorithm", ["PPO", "A2C", "DQN"])
def test_states_can_be_seen_token_by_token(tmp_path: Path, algorithm: str) -> None:
    world, by_token = ToyWorld(ARENA), replace(SMALL, tokens=True)
    size = world.state_size
    world.state_tokens = (2, 2)
    agent = train(tmp_path / "whole", algorithm, world, steps=640, config=by_token)
    assert train(tmp_path / "parts", algorithm, world, steps=640, config=by_token, stop_after=200) is None
    resumed = train(tmp_path / "parts", algorithm, world, steps=640, config=by_token)
    assert all(torch.equal(a, b) for a, b in zip(parameters(agent), parameters(resumed), strict=True))
    vectors = torch.randn(5, size)
    loaded = load_agent(tmp_path / "whole" / "agent", world)
    assert loaded.heads.shape.tokens == (2, 2)
    assert torch.equal(loaded.probabilities(vectors), agent.probabilities(vectors))
    net = agent.heads.policy.net
    features = net.q_net.features_extractor if algorithm == "DQN" else net.features_extractor
    one, other = features(vectors), features(vectors.roll(2, 1))
    assert size == 4 and one.shape == (5, 32)
    # Where tokens change places, so do their features.
    assert not torch.equal(one, other) and torch.allclose(one.roll(16, 1), other, atol=1e-6)
    told = [agent.value(vectors)] if algorithm == "DQN" else [agent.value(vectors), agent.heads.policy.entropy(vectors)]
    for number in told:
        features.zero_grad()
        number.sum().backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in features.parameters())


def test_states_without_tokens_cannot_be_seen_token_by_token(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no tokens"):
        train(tmp_path, config=replace(SMALL, tokens=True))
