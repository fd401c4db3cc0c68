"""The joined loop: memory, perception, prediction, evaluation and decision under one loss, in a learned world."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from test_state_space import SIZE, SPEC, made, walk

from worldloop.agents.actor_critic import ActorCritic, ActorCriticConfig
from worldloop.agents.agent import Agent, load_agent
from worldloop.agents.heads import HeadsConfig
from worldloop.agents.imagined_batch import ObservedStarts, perceived_anew, roll_out
from worldloop.agents.returns import lambda_returns
from worldloop.agents.stages import JointStage
from worldloop.agents.train import TrainAgentConfig, train_agent
from worldloop.agents.training import train_in_imagination
from worldloop.agents.trials import RealTrials, TrialsConfig
from worldloop.envs.contexts import Contexts
from worldloop.errors import ConfigError, DataError
from worldloop.rollouts.cache import TrainingCache
from worldloop.rollouts.episode import Episode
from worldloop.rollouts.metadata import DatasetInfo
from worldloop.rollouts.store import DatasetWriter, open_dataset
from worldloop.world_models.perception.state_encoder import Surroundings
from worldloop.world_models.storage import save_world
from worldloop.world_models.training.config import StageConfig
from worldloop.world_models.training.fit import Progress
from worldloop.world_models.training.state_space import StateStage

TRAINING = StageConfig(5, batch_size=4, learning_rate=1e-3, warmup=2, weight_decay=0.0, clip=10.0, ema=0.9)
SMALL = ActorCriticConfig(HeadsConfig(width=16, members=2, bins=21), horizon=4, first_horizon=3)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Walks on which walking is paid."""
    root = tmp_path_factory.mktemp("data")
    for name, pays in (("train", 1.0), ("unpaid", 0.0)):
        writer = DatasetWriter.create(root / name, DatasetInfo("walks", {}, SIZE, SPEC, "train"))
        for seed, length in enumerate((31, 36)):
            frames, actions, poses = walk(length, seed)
            no, rewards = np.zeros(length, bool), (pays * (actions == 1)).astype(np.float32)
            writer.add(Episode(frames, actions, poses, rewards, no, no, no, no, seed))
    return root


@pytest.fixture(scope="module")
def cache(data: Path) -> TrainingCache:
    return TrainingCache.of(open_dataset(data / "train"))


def contexts(data: Path) -> Contexts:
    return Contexts.from_dataset(open_dataset(data / "train"), 6, 20)


def joint(cache: TrainingCache, starts: Contexts) -> tuple[JointStage, ActorCritic]:
    """A stage whose last layers, at first zero, let everything through."""
    world = made("state")
    world.state_space.requires_grad_(True)  # type: ignore[union-attr]
    agent = ActorCritic(world.state_size, SPEC, SMALL)
    for module in (world.state_space, agent):
        for parameter in module.parameters():  # type: ignore[union-attr]
            if parameter.requires_grad and not parameter.any():
                torch.nn.init.normal_(parameter, std=0.1)
    latents = world.encode(cache.frames[:]).numpy()
    states = StateStage(world, cache, latents, TRAINING, 0)
    return JointStage(agent, ObservedStarts(world, starts), states, TRAINING, 0), agent


def taught(stage: JointStage, loss: torch.Tensor) -> set[str]:
    """Which parts a loss would change, all of them by finite numbers."""
    everything = torch.nn.ModuleDict({"loop": stage.module, "world": stage.world})  # type: ignore[dict-item]
    everything.zero_grad()
    loss.backward(retain_graph=True)
    parts = set()
    for name, parameter in everything.named_parameters():
        if parameter.grad is not None and bool(parameter.grad.any()):
            assert bool(parameter.grad.isfinite().all()), name
            parts.add(".".join(name.split(".")[1:4]))
    return parts


def test_one_loss_gives_gradients_in_all_five_functions(cache: TrainingCache, data: Path) -> None:
    stage, _ = joint(cache, contexts(data))
    space = stage.world.state_space  # type: ignore[attr-defined]
    remembered: list[Surroundings] = []
    look = space.look_around

    def watched(*args) -> Surroundings:
        seen = look(*args)
        seen.latents.requires_grad_()
        remembered.append(seen)
        return seen

    space.look_around = watched
    losses = stage.loss(0)
    parts = taught(stage, torch.stack([*losses.values()]).sum())
    perception = {"state_space.sight.patches", "state_space.encoder.reader", "state_space.head.show"}
    prediction = {"state_space.head.reader", "state_space.head.next", "state_space.head.motion"}
    evaluation = {"state_space.head.outcome", "agent.critic.nets"}
    assert perception | prediction | evaluation | {"agent.policy.net"} <= parts, parts
    (seen,) = remembered
    recent = stage.world.config.context  # type: ignore[attr-defined]
    assert seen.latents.grad is not None and bool(seen.valid[:, recent:].any())
    felt = seen.latents.grad[:, recent:].abs().sum((2, 3, 4))
    assert bool((felt[seen.valid[:, recent:]] > 0).all()), "and memory: every frame that it gave"


def test_the_value_of_the_last_of_k_imagined_states_reaches_the_encoder(cache: TrainingCache, data: Path) -> None:
    stage, agent = joint(cache, contexts(data))
    state = perceived_anew(stage.world, ObservedStarts(stage.world, contexts(data)).draw(3, 0, 0))
    lived = roll_out(stage.world, state, agent.policy, 4)
    last = agent.critic.loss(agent.critic.logits(lived.vectors[:, -1]), torch.ones(3)).sum()
    parts = taught(stage, last)
    assert {"state_space.encoder.reader", "state_space.head.reader", "agent.critic.nets"} <= parts
    assert "agent.policy.net" not in parts and "state_space.head.outcome" not in parts


def test_stopped_gradients_are_stopped(cache: TrainingCache, data: Path) -> None:
    stage, _ = joint(cache, contexts(data))
    losses = stage.loss(0)
    for name in ("actor", "entropy"):
        assert taught(stage, losses[name]) == {"agent.policy.net"}, "the actor bends no world"
    critic = taught(stage, losses["critic"])
    assert "state_space.encoder.reader" in critic
    assert not any(part.startswith(("agent.policy", "agent.target")) for part in critic)
    assert "state_space.head.outcome" not in critic, "rewards and ends in the returns are given"
    world = taught(stage, torch.stack([x for name, x in losses.items() if name.startswith("world_")]).sum())
    assert not any(part.startswith("agent") for part in world)
    for part in critic | world:
        assert part.startswith(("agent", "state_space")), "autoencoder and video model are left alone"


def test_shaping_counts_a_tenth(cache: TrainingCache, data: Path) -> None:
    stage, agent = joint(cache, contexts(data))
    state = perceived_anew(stage.world, ObservedStarts(stage.world, contexts(data)).draw(3, 0, 0))
    lived = roll_out(stage.world, state, agent.policy, 3)
    losses, _ = agent.losses(lived, shape_states=True)
    (ours,) = torch.autograd.grad(losses["critic"], lived.vectors, retain_graph=True)
    free = lived.vectors.detach().requires_grad_()
    frozen = agent.losses(replace(lived, vectors=free), shape_states=True)[0]["critic"]
    assert torch.allclose(torch.autograd.grad(frozen, free)[0], ours)
    given = lived.vectors.detach()[:, :-1].clone().requires_grad_()
    logits = agent.critic.logits(given)
    weights = torch.cat([torch.ones(3, 1), lived.continues.detach()[:, :-1]], 1).cumprod(1)
    with torch.no_grad():
        after = agent.target.value(lived.vectors[:, 1:])
        returns = lambda_returns(lived.rewards, lived.continues, after, SMALL.discount, SMALL.trace)
        anchor = agent.target.value(given)
    whole = (weights * (agent.critic.loss(logits, returns) + agent.critic.loss(logits, anchor))).mean()
    (full,) = torch.autograd.grad(whole, given)
    assert torch.allclose(ours[:, :-1], 0.1 * full, atol=1e-7)


def curve(data: Path, cache: TrainingCache, out: Path, stop: int | None = None) -> list[tuple[int, dict]]:
    seen = []

    def watch(progress: Progress, watched: dict[str, float]) -> None:
        seen.append((progress.step, progress.losses))

    train_in_imagination(
        made("state"), contexts(data), out, SMALL, TRAINING, joint=cache, stop_after=stop, watch=watch
    )
    return seen


def test_a_joint_run_goes_on_to_the_same_curve_and_keeps_its_world(
    data: Path, cache: TrainingCache, tmp_path: Path
) -> None:
    whole = curve(data, cache, tmp_path / "whole")
    parts = curve(data, cache, tmp_path / "parts", 2) + curve(data, cache, tmp_path / "parts")
    assert parts == whole and len(whole) == TRAINING.steps
    agent = load_agent(tmp_path / "whole" / "agent")
    before, after = made("state").state_dict(), agent.world.state_dict()  # type: ignore[attr-defined]
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"state_space"}
    frames, _, poses = walk(9, 4)
    state = None
    for frame, pose in zip(frames, poses, strict=True):
        action, state = agent.predict({"frame": frame, "pose": pose}, state)
        assert 0 <= action < SPEC.n
    with pytest.raises(ConfigError, match="perceives otherwise"):
        load_agent(tmp_path / "whole" / "agent", made("state"))


class Replay(gym.Env):
    """A real world of which only a recorded walk is seen, whatever one does."""

    def reset(self, *, seed=None, options=None):
        frames, _, poses = walk(5, seed % 1000)
        self.shown = list(zip(frames, poses, strict=True))
        frame, pose = self.shown.pop(0)
        return frame, {"pose": pose}

    def step(self, action):
        frame, pose = self.shown.pop(0)
        return frame, 0.0, False, not self.shown, {"pose": pose, "success": True}


def test_trials_of_a_joint_run_change_nothing_and_keep_its_world_with_the_best(
    data: Path, cache: TrainingCache, tmp_path: Path
) -> None:
    plain = curve(data, cache, tmp_path / "plain")
    tried, seen = RealTrials(Replay, TrialsConfig(every=2, episodes=2), tmp_path / "tried"), []
    train_in_imagination(
        made("state"), contexts(data), tmp_path / "tried", SMALL, TRAINING, joint=cache, trials=tried,
        watch=lambda progress, watched: seen.append((progress.step, progress.losses)),
    )  # fmt: skip
    assert seen == plain and [trial.step for trial in tried.trials] == [2, 4]
    best, last = (load_agent(tmp_path / "tried" / name) for name in ("best", "agent"))
    weights = [agent.world.state_space.state_dict() for agent in (best, last)]  # type: ignore[attr-defined]
    assert any(not torch.equal(weights[0][name], weights[1][name]) for name in weights[0]), "as they were at step 2"


def test_an_agent_acts_the_same_whichever_way_its_world_imagines() -> None:
    torch.manual_seed(0)
    heads = ActorCritic(made().state_size, SPEC, SMALL)
    torch.nn.init.normal_(heads.policy.net[-1].weight, std=0.2)  # type: ignore[union-attr, index, arg-type]
    frames, _, poses = walk(24, 3)
    chosen = []
    for imagination in ("video", "state"):
        agent, state, actions = Agent(made(imagination), heads), None, []
        for frame, pose in zip(frames, poses, strict=True):
            action, state = agent.predict({"frame": frame, "pose": pose}, state, deterministic=False)
            actions.append(action)
        chosen.append(actions)
    assert chosen[0] == chosen[1] and len({*chosen[0]}) == SPEC.n


def test_curiosity_pays_imagined_lives_for_what_is_new_to_memory_and_changes_nothing_else(data: Path) -> None:
    world, starts = made("video"), contexts(data)
    torch.manual_seed(0)
    policy = ActorCritic(world.state_size, SPEC, SMALL).policy
    torch.nn.init.normal_(policy.net[-1].weight, std=0.2)  # type: ignore[union-attr, index, arg-type]
    state = starts.observed(world, world.start(2), np.arange(2))
    with torch.no_grad():
        plain, curious = (roll_out(world, state, policy, 8, curiosity=price) for price in (0.0, 0.5))
        known = [[*starts.poses[row]] for row in range(2)]
        for t in range(8):
            state, step = world.imagine(state, plain.actions[:, t])
            for row in range(2):
                pose = step.pose[row].numpy()
                apart = [
                    math.hypot(math.dist(pose[:3], there[:3]) / 80, turned(pose[3] - there[3]) / (math.pi / 4))
                    for there in known[row]
                ]
                bonus = float(curious.rewards[row, t] - plain.rewards[row, t])
                assert bonus == pytest.approx(0.5 * min(1, *apart), abs=1e-3)
                known[row].append(pose)
    for name in ("vectors", "actions", "continues"):
        assert torch.equal(getattr(plain, name), getattr(curious, name))
    assert float((curious.rewards - plain.rewards).max()) > 0.05
    with pytest.raises(ConfigError, match="remembers what it imagines"):
        train_in_imagination(made("state"), starts, data / "run", SMALL, TRAINING, curiosity=0.1)


def turned(angle: float) -> float:
    """How far, in radians; pitch is 0 on these walks."""
    return abs((angle + math.pi) % (2 * math.pi) - math.pi)


@pytest.mark.parametrize("way", ["state", "video", "joint", "cloning"])
def test_the_command_trains_from_a_world_and_data_on_disk(way: str, data: Path, tmp_path: Path) -> None:
    save_world(made(), tmp_path / "world", {})
    contexts(data).save(tmp_path / "world" / "contexts.safetensors")
    config = TrainAgentConfig(
        tmp_path / "run", str(tmp_path / "world"), data / "train" if way != "video" else None, starts=4, context=9,
        samples=20, shortest=None, beginnings=0.0, rewarded=False, cloning=replace(TRAINING, steps=3),
        joint=way == "joint", imagination="video" if way == "video" else "state", agent=SMALL,
        method="cloning" if way == "cloning" else "imagination", training=replace(TRAINING, steps=3), device="cpu",
    )  # fmt: skip
    assert train_agent(replace(config, stop_after=2)) is None
    path = train_agent(config, "worldloop train-agent …")
    assert path is not None
    agent = load_agent(path)
    assert agent.world.actions == SPEC
    about = json.loads((path / "agent.json").read_text())["about"]
    assert about["command"] == "worldloop train-agent …" and about["config"]["seed"] == 0
    frames, _, poses = walk(1)
    assert agent.predict({"frame": frames[0], "pose": poses[0]})[0] in range(SPEC.n)


def test_configurations_that_contradict_themselves_are_refused(data: Path, tmp_path: Path) -> None:
    save_world(made(), tmp_path / "world", {})
    config = TrainAgentConfig(
        tmp_path / "run", str(tmp_path / "world"), device="cpu", agent=SMALL, method="imagination"
    )  # fmt: skip
    with pytest.raises(ConfigError, match="give --data"):
        replace(config, joint=True)
    with pytest.raises(ConfigError, match="give --data"):
        replace(config, method="cloning")
    with pytest.raises(ConfigError, match="in state space"):
        replace(config, joint=True, data=data / "train", imagination="video")
    for nothing in ({"training": replace(TRAINING, steps=0)}, {"cloning": replace(TRAINING, steps=0)}):
        with pytest.raises(ConfigError, match="at least 1"):
            replace(config, **nothing)
    with pytest.raises(ConfigError, match="Nothing is ever paid"):
        train_agent(replace(config, data=data / "unpaid"))
    with pytest.raises(DataError, match="no file of recorded contexts"):
        train_agent(config)
    with pytest.raises(ConfigError, match="Keys have no slope"):
        train_agent(replace(config, data=data / "train", agent=replace(SMALL, estimator="dynamics")))
