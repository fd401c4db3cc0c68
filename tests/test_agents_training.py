"""Training in imagination: what learns from what, and runs that stop, go on, or go wrong."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from toy_world import AXES, KEYS, ToyArena, ToyWorld, standing_at, toy_contexts

from worldloop.agents.actor_critic import ActorCritic, ActorCriticConfig, Estimator
from worldloop.agents.agent import load_agent
from worldloop.agents.heads import HeadsConfig
from worldloop.agents.imagined_batch import ImaginedBatch, ObservedStarts, roll_out
from worldloop.agents.policies import BoxPolicy
from worldloop.agents.returns import lambda_returns
from worldloop.agents.stages import ImaginationStage
from worldloop.agents.training import agent_training, train_in_imagination
from worldloop.errors import ConfigError, WorldFormatError
from worldloop.world_models.state import WorldState
from worldloop.world_models.training.config import StageConfig
from worldloop.world_models.training.fit import Diverged, Progress
from worldloop.world_models.world import ImaginedStep

ARENA = ToyArena(size=200.0, goal=(140.0, 140.0), goal_radius=30.0)
AXES_ARENA = replace(ARENA, actions=AXES)
SMALL = ActorCriticConfig(HeadsConfig(width=16, members=2, bins=21), horizon=4, first_horizon=2, discount=0.9)
TRAINING = StageConfig(8, batch_size=6, learning_rate=1e-2, warmup=2, weight_decay=0.0, clip=10.0, ema=0.9)
B, H, D = 5, 4, 4


MIDDLE = 140.0


class SmoothWorld(ToyWorld):
    """Paid by how near to a place one is, with a slope: what to do can be told from the dynamics alone."""

    def __init__(self) -> None:
        # Walls, where no slope is felt, are far away.
        super().__init__(replace(AXES_ARENA, size=1000.0))

    def encode_state(self, state: WorldState) -> torch.Tensor:
        pose = state.pose.to(torch.float32)
        return torch.cat([(pose[:, :2] - MIDDLE) / 100, pose[:, 3:4].cos(), pose[:, 3:4].sin()], 1)

    def imagine(self, state: WorldState, actions, pose=None) -> tuple[WorldState, ImaginedStep]:
        after, step = super().imagine(state, actions, pose)
        away = (step.pose[:, :2] - MIDDLE).norm(dim=-1) / 100
        return after, replace(step, reward=-away.to(torch.float32), continues=torch.ones(len(away)))


def heads(estimator: Estimator = "reinforce", spec=KEYS, seed: int = 0, **changes) -> ActorCritic:
    """An agent whose last layers, at first zero, let everything through."""
    torch.manual_seed(seed)
    made = ActorCritic(D, spec, replace(SMALL, estimator=estimator, **changes))
    for parameter in made.parameters():
        if parameter.requires_grad and not parameter.any():
            torch.nn.init.normal_(parameter, std=0.3)
    made.target.load_state_dict(made.critic.state_dict())
    return made


def batch(spec=KEYS, seed: int = 0) -> ImaginedBatch:
    generator = torch.Generator().manual_seed(seed)
    actions = torch.randint(spec.n, (B, H), generator=generator)
    return ImaginedBatch(
        torch.randn(B, H + 1, D, generator=generator),
        actions if spec.kind == "discrete" else torch.rand(B, H, spec.n, generator=generator) * 1.8 - 0.9,
        torch.randn(B, H, generator=generator),
        torch.rand(B, H, generator=generator),
        torch.rand(B, H, generator=generator),
        torch.rand(B, H, spec.n, generator=generator),
        torch.zeros(0, H + 1, 4, 2, 2),
    )


def gradients(module: torch.nn.Module, loss: torch.Tensor) -> set[str]:
    """Names of the parameters that a loss would change."""
    module.zero_grad()
    loss.backward(retain_graph=True)
    return {name for name, p in module.named_parameters() if p.grad is not None and bool(p.grad.any())}


def parts(names: set[str]) -> set[str]:
    return {name.split(".")[0] for name in names}


@pytest.mark.parametrize("estimator", ["reinforce", "q"])
@pytest.mark.parametrize("spec", [KEYS, AXES], ids=["keys", "axes"])
def test_every_loss_teaches_what_it_shall_and_nothing_else(spec, estimator: Estimator) -> None:
    agent = heads(estimator, spec)
    imagined = batch(spec)
    imagined.vectors.requires_grad_()
    losses, _ = agent.losses(imagined)
    taught = {name: parts(gradients(agent, loss)) for name, loss in losses.items()}
    learning = {"actor": {"policy"}, "entropy": {"policy"}, "critic": {"critic"}}
    assert taught == learning | ({"q": {"q"}} if estimator == "q" else {})
    assert imagined.vectors.grad is None, "states are given"
    shaping, _ = agent.losses(imagined, shape_states=True)
    shaping["critic"].backward(retain_graph=True)
    assert imagined.vectors.grad is not None and bool(imagined.vectors.grad[:, :-1].any())
    imagined.vectors.grad = None
    for name in shaping:
        if name != "critic":
            shaping[name].backward(retain_graph=True)
    assert imagined.vectors.grad is None, "only the critic shapes states"


@pytest.mark.parametrize("estimator", ["reinforce", "dynamics", "q"])
def test_uncertainty_costs_its_price_as_if_less_had_been_paid(estimator: Estimator) -> None:
    imagined = batch(AXES)
    imagined.vectors.requires_grad_()
    poorer = replace(imagined, rewards=imagined.rewards - 0.7 * imagined.uncertainty)
    priced, _ = heads(estimator, AXES, uncertainty_price=0.7).losses(imagined)
    plain, _ = heads(estimator, AXES).losses(poorer)
    assert {name: float(loss.detach()) for name, loss in priced.items()} == pytest.approx(
        {name: float(loss.detach()) for name, loss in plain.items()}
    )
    free, _ = heads(estimator, AXES).losses(imagined)
    assert float(free["critic"].detach()) != pytest.approx(float(priced["critic"].detach()))


def test_reinforce_is_the_textbook_sum() -> None:
    agent, imagined = heads(entropy=0.25), batch()
    losses, watched = agent.losses(imagined)
    actor = critic = entropy = 0.0
    with torch.no_grad():
        target = agent.target.value(imagined.vectors)
        returns = lambda_returns(imagined.rewards, imagined.continues, target[:, 1:], 0.9, SMALL.trace)
        low, high = np.quantile(returns.numpy(), [0.05, 0.95])
        scale = max(1.0, high - low)
        for b in range(B):
            reached = 1.0
            for t in range(H):
                s = imagined.vectors[b, t]
                likely = agent.policy.probabilities(s)  # type: ignore[operator]
                advantage = returns[b, t] - agent.critic.value(s)
                actor -= reached * float(likely[imagined.actions[b, t]].log() * advantage / scale) / (B * H)
                entropy -= reached * float(-(likely * likely.log()).sum()) / (B * H)
                logits = agent.critic.logits(s)
                towards = agent.critic.loss(logits, returns[b, t]) + agent.critic.loss(logits, target[b, t])
                critic += reached * float(towards) / (B * H)
                reached *= float(imagined.continues[b, t])
    assert float(losses["actor"].detach()) == pytest.approx(actor, rel=1e-4)
    assert float(losses["entropy"].detach()) == pytest.approx(0.25 * entropy, rel=1e-4)
    assert float(losses["critic"].detach()) == pytest.approx(critic, rel=1e-4)
    assert watched["return"] == pytest.approx(float(returns[:, 0].mean()), rel=1e-4)


def paid(agent: ActorCritic, imagined: ImaginedBatch) -> torch.Tensor:
    """λ-returns (B, H) by the target critic."""
    after = agent.target.value(imagined.vectors[:, 1:])
    return lambda_returns(imagined.rewards, imagined.continues, after, 0.9, SMALL.trace)


def test_by_q_the_policy_learns_what_all_keys_are_worth_and_where_q_was_wrong() -> None:
    agent, imagined = heads("q"), batch()
    losses, _ = agent.losses(imagined)
    assert agent.q is not None
    gained = 0.0
    with torch.no_grad():
        returns = paid(agent, imagined)
        for b in range(B):
            reached = 1.0
            for t in range(H):
                s, done = imagined.vectors[b, t], imagined.actions[b, t]
                likely = agent.policy.probabilities(s)
                worth = [agent.q.value(s, torch.tensor(key)) for key in range(KEYS.n)]
                gained += reached * float(sum(p * q for p, q in zip(likely, worth, strict=True)))
                gained += reached * float(likely[done].log() * (returns[b, t] - worth[done]))
                reached *= float(imagined.continues[b, t])
    scale = float(agent.scale.scale)
    assert float(losses["actor"].detach()) == pytest.approx(-gained / scale / (B * H), rel=1e-4)


def test_by_q_the_slope_of_vectors_is_that_of_finite_differences() -> None:
    """One bias of the policy moves the vectors it draws, with them what Q says, and how likely the old ones are."""
    agent, imagined = heads("q", AXES), batch(AXES)
    assert agent.q is not None
    bias = agent.policy.net[-1].bias  # type: ignore[union-attr, index]
    (slope,) = torch.autograd.grad(agent.losses(imagined)[0]["actor"] * agent.scale.scale, bias)
    assert bool((slope != 0).all())
    before = imagined.vectors[:, :-1]
    reached = torch.cat([torch.ones(B, 1), imagined.continues[:, :-1]], 1).cumprod(1)

    def gained() -> float:
        wrong = paid(agent, imagined) - agent.q.value(before, imagined.actions)  # type: ignore[union-attr]
        drawn = agent.policy.act(before, imagined.draws)
        told = agent.q.value(before, drawn)  # type: ignore[union-attr]
        return float(((told + agent.policy.log_prob(before, imagined.actions) * wrong) * reached).mean())

    for i in range(len(bias)):
        ends = []
        with torch.no_grad():
            for nudge in (1e-2, -1e-2):
                bias[i] += nudge
                ends.append(gained())
                bias[i] -= nudge
        assert float(-slope[i]) == pytest.approx((ends[0] - ends[1]) / 2e-2, rel=0.05, abs=2e-4)
    assert all(parameter.requires_grad for parameter in agent.q.parameters())


def test_by_q_the_policy_learns_on_average_what_it_learns_by_reinforce() -> None:
    """Whatever Q says of the keys: it takes away chance and nothing else."""
    agent = heads("q", entropy=0.0)
    assert agent.q is not None
    state = torch.randn(1, D, generator=torch.Generator().manual_seed(1))
    worth = torch.randn(KEYS.n, generator=torch.Generator().manual_seed(2))
    weights = agent.policy.net[-1].weight  # type: ignore[union-attr, index]
    with torch.no_grad():
        likely = agent.policy.probabilities(state)[0]
    mean = torch.zeros_like(weights)
    for key in range(KEYS.n):
        once = ImaginedBatch(
            state.expand(2, D)[None], torch.tensor([[key]]), worth[key].view(1, 1), torch.zeros(1, 1),
            torch.zeros(1, 1), torch.full((1, 1, KEYS.n), 0.5), torch.zeros(0, 2, 4, 2, 2),
        )  # fmt: skip
        (slope,) = torch.autograd.grad(agent.losses(once)[0]["actor"], weights)
        mean -= likely[key] * slope
    (exact,) = torch.autograd.grad((agent.policy.probabilities(state)[0] * worth).sum(), weights)
    assert torch.allclose(mean, exact, atol=1e-5) and float(exact.abs().max()) > 1e-3


def test_roll_outs_keep_what_actions_were_drawn_by() -> None:
    agent, world = heads(spec=AXES), ToyWorld(AXES_ARENA)
    state = ObservedStarts(world, toy_contexts(AXES_ARENA)).draw(3, 0, 0)
    with torch.no_grad():
        lived = roll_out(world, state, agent.policy, 4)
        assert torch.equal(agent.policy.act(lived.vectors[:, :-1], lived.draws), lived.actions)


def test_q_learns_what_every_key_is_worth() -> None:
    agent, paid = heads("q"), torch.tensor([0.0, 1, 2, -1, 0.5, 3, -2])
    assert agent.q is not None
    optimizer = torch.optim.Adam(agent.q.parameters(), 1e-2)
    for seed in range(200):
        drawn = batch(seed=seed)
        over = replace(drawn, rewards=paid[drawn.actions], continues=torch.zeros(B, H))
        losses, _ = agent.losses(replace(over, vectors=over.vectors * 0.1))
        optimizer.zero_grad()
        # Past the end of each of these nothing counts: only the first step does.
        losses["q"].backward()
        optimizer.step()
    with torch.no_grad():
        assert torch.allclose(agent.q.of_keys(torch.zeros(D)), paid, atol=0.3)


def test_what_comes_after_a_certain_end_teaches_nothing() -> None:
    # The scale is of all returns; a large least one keeps it out of the comparison.
    agent, imagined = heads(least_scale=100.0), batch()
    imagined.continues[:, 1] = 0
    ours = {name: float(loss.detach()) for name, loss in agent.losses(imagined)[0].items()}
    other = batch(seed=1)
    for name in ("vectors", "actions", "rewards", "continues"):
        getattr(imagined, name)[:, 2:] = getattr(other, name)[:, 2:]
    theirs = {name: float(loss.detach()) for name, loss in agent.losses(imagined)[0].items()}
    assert theirs == pytest.approx(ours, rel=1e-5)


def test_the_gradient_through_the_dynamics_is_that_of_finite_differences() -> None:
    """Moving one bias of the policy changes what is earned as the loss says."""
    world = SmoothWorld()
    state = standing_at(world, [60, 90, 0, 0.3, 0], [150, 120, 0, 2.0, 0])
    agent = heads("dynamics", AXES, trace=1.0, entropy=0.0)
    bias = agent.policy.net[-1].bias  # type: ignore[union-attr, index]

    def first_returns() -> torch.Tensor:
        lived = roll_out(world, state, agent.policy, 1)
        after = agent.target.value(lived.vectors[:, 1:])
        return lambda_returns(lived.rewards, lived.continues, after, 0.9, 1.0).mean()

    lived = roll_out(world, state, agent.policy, 1)
    losses, _ = agent.losses(lived)
    (slope,) = torch.autograd.grad(losses["actor"] * agent.scale.scale, bias)
    assert bool((slope != 0).all())
    for i in range(len(bias)):
        with torch.no_grad():
            ends = []
            for nudge in (1e-2, -1e-2):
                bias[i] += nudge
                ends.append(float(first_returns()))
                bias[i] -= nudge
        assert float(-slope[i]) == pytest.approx((ends[0] - ends[1]) / 2e-2, rel=0.05, abs=2e-4)


def test_dynamics_teach_the_policy_alone_and_reach_back_through_all_steps() -> None:
    world = SmoothWorld()
    state = standing_at(world, [60, 90, 0, 0.3, 0])
    agent = heads("dynamics", AXES)
    lived = roll_out(world, state, agent.policy, 4)
    losses, _ = agent.losses(lived)
    assert parts(gradients(agent, losses["actor"])) == {"policy"}
    assert parts(gradients(agent, losses["critic"])) == {"critic"}
    first = torch.zeros(1, 3, requires_grad=True)
    at, paid = state, torch.zeros(())
    for t in range(4):
        at, step = world.imagine(at, first if t == 0 else torch.zeros(1, 3))
        paid = step.reward.sum()
    (slope,) = torch.autograd.grad(paid, first)
    assert bool(slope[0, :2].all()), "the last reward knows the first action"


def test_an_agent_learns_through_the_dynamics_to_stay_in_the_middle(tmp_path: Path) -> None:
    world = SmoothWorld()
    config = replace(SMALL, estimator="dynamics", horizon=5, first_horizon=5)
    training = replace(agent_training(120), batch_size=16, learning_rate=5e-3)
    agent = train_in_imagination(world, toy_contexts(world.arena, n=60), tmp_path, config, training)
    assert agent is not None and isinstance(agent.heads.policy, BoxPolicy)
    state = standing_at(world, [105, 110, 0, 0.5, 0], [175, 150, 0, -2, 0], [120, 180, 0, 3, 0])
    with torch.no_grad():
        for _ in range(8):
            state, step = world.imagine(state, agent.heads.policy.best(world.encode_state(state)))
    assert float((step.pose[:, :2] - MIDDLE).norm(dim=-1).max()) < 15


def test_starts_are_drawn_evenly_each_world_with_a_seed_of_its_own() -> None:
    world = ToyWorld(ARENA)
    contexts = toy_contexts(ARENA, n=50)
    starts = ObservedStarts(world, contexts)
    drawn = starts.draw(4000, seed=3, step=0)
    ends = {tuple(p) for p in contexts.poses[:, -1].tolist()}
    seen: dict[tuple[float, ...], int] = {}
    for pose in drawn.pose.tolist():
        seen[tuple(pose)] = seen.get(tuple(pose), 0) + 1
    assert set(seen) == ends and min(seen.values()) > 40 and max(seen.values()) < 130
    assert len({*drawn.seeds.tolist()}) == 4000
    assert torch.equal(starts.draw(4000, 3, 0).seeds, drawn.seeds)
    assert not set(starts.draw(4000, 3, 1).seeds.tolist()) & set(drawn.seeds.tolist())


def test_roll_outs_say_what_the_world_says_step_by_step_and_each_world_lives_as_if_alone() -> None:
    world, agent = ToyWorld(ARENA, noise=5.0), heads()
    state = ObservedStarts(world, toy_contexts(ARENA)).draw(6, 0, 0)
    with torch.no_grad():
        lived = roll_out(world, state, agent.policy, 4, films=2)
        alone = roll_out(world, state[[3]], agent.policy, 4)
        at = state
        for t in range(4):
            assert torch.equal(lived.vectors[:, t], world.encode_state(at))
            at, step = world.imagine(at, lived.actions[:, t])
            assert torch.equal(lived.rewards[:, t], step.reward)
            assert torch.equal(lived.continues[:, t], step.continues)
            assert torch.equal(lived.latents[:, t + 1], step.latents[:2])
    assert torch.equal(lived.vectors[:, 4], world.encode_state(at))
    for name in ("vectors", "actions", "rewards", "continues"):
        assert torch.equal(getattr(alone, name)[0], getattr(lived, name)[3])
    assert len({*lived.actions.flatten().tolist()}) > 3


def test_the_horizon_grows_to_its_full_length_and_stays() -> None:
    config = ActorCriticConfig(horizon=15, first_horizon=5, full_horizon=0.5)
    horizons = [config.horizon_at(step, 100) for step in range(100)]
    assert horizons[0] == 5 and horizons[25] == 10 and horizons[50:] == [15] * 50
    assert horizons == sorted(horizons)


def test_the_target_follows_at_every_step_of_the_optimiser_and_only_then() -> None:
    agent = heads()
    stage = ImaginationStage(agent, ObservedStarts(ToyWorld(ARENA), toy_contexts(ARENA)), TRAINING, 0)
    first = [p.clone() for p in agent.target.parameters()]
    stage.loss(0)
    assert all(torch.equal(a, b) for a, b in zip(first, agent.target.parameters(), strict=True))
    with torch.no_grad():
        for p in agent.critic.parameters():
            p.add_(1.0)
    stage.loss(1)
    for a, b in zip(first, agent.target.parameters(), strict=True):
        assert torch.allclose(b, a + SMALL.target_rate * 1.0, atol=1e-6)


def test_entropy_keeps_a_policy_open_where_nothing_is_paid(tmp_path: Path) -> None:
    nowhere = ToyWorld(replace(ARENA, goal=(-1000.0, -1000.0)))
    open_minded = train_in_imagination(nowhere, toy_contexts(ARENA), tmp_path, replace(SMALL, entropy=0.1), TRAINING)
    assert open_minded is not None
    vectors = nowhere.encode_state(standing_at(nowhere, [100, 100, 0, 0, 0]))
    assert float(open_minded.heads.policy.entropy(vectors).detach()) > 0.98 * math.log(KEYS.n)


def curve(out: Path, stop: int | None = None, world: ToyWorld | None = None) -> list[tuple[int, dict, dict]]:
    seen = []

    def watch(progress: Progress, watched: dict[str, float]) -> None:
        seen.append((progress.step, progress.losses, watched))

    train_in_imagination(
        world or ToyWorld(ARENA), toy_contexts(ARENA), out, SMALL, TRAINING, stop_after=stop, watch=watch,
        checkpoint_every=100,
    )  # fmt: skip
    return seen


def test_an_interrupted_run_gives_the_same_curve_and_agent(tmp_path: Path) -> None:
    whole = curve(tmp_path / "whole")
    resumed = [step for stop in (1, 3, 6, None) for step in curve(tmp_path / "parts", stop)]
    assert resumed == whole and len(whole) == TRAINING.steps
    one, two = (load_agent(tmp_path / name / "agent", ToyWorld(ARENA)) for name in ("whole", "parts"))
    for (name, a), b in zip(one.heads.state_dict().items(), two.heads.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_tensorboard_shows_returns_values_entropy_and_imagined_lives(tmp_path: Path) -> None:
    curve(tmp_path)
    events = EventAccumulator(str(tmp_path / "tensorboard"), size_guidance={"images": 0})
    events.Reload()
    assert {"imagined/return", "imagined/value", "imagined/entropy", "loss/critic"} <= set(events.Tags()["scalars"])
    (image,) = events.Images("imagined/lives")
    assert (image.height, image.width) == (4 * 36, (SMALL.horizon + 1) * 48)


class Poisoned(ToyWorld):
    """Pays NaN from some step on."""

    def __init__(self, good: int) -> None:
        super().__init__(ARENA)
        self._good = good

    def imagine(self, state: WorldState, actions, pose=None) -> tuple[WorldState, ImaginedStep]:
        after, step = super().imagine(state, actions, pose)
        bad = len(self.imagined_batches) > self._good
        return after, replace(step, reward=step.reward * float("nan")) if bad else step


def test_divergence_is_an_error_and_the_last_good_checkpoint_is_kept(tmp_path: Path) -> None:
    good = sum(SMALL.horizon_at(step, TRAINING.steps) for step in range(6))
    with pytest.raises(Diverged, match="checkpoint of step 4 is kept"):
        train_in_imagination(
            Poisoned(good), toy_contexts(ARENA), tmp_path, SMALL, TRAINING, checkpoint_every=4, film_every=1000
        )
    seen = curve(tmp_path)
    assert seen[0][0] == 5 and seen[-1][0] == TRAINING.steps
    for _, losses, watched in seen:
        assert all(math.isfinite(x) for x in (*losses.values(), *watched.values()))


def test_bad_input_is_refused_in_a_sentence(tmp_path: Path) -> None:
    world, contexts = ToyWorld(ARENA), toy_contexts(ARENA)
    with pytest.raises(ConfigError, match="Keys have no slope"):
        train_in_imagination(world, contexts, tmp_path, replace(SMALL, estimator="dynamics"), TRAINING)

    class Flat(ToyWorld):
        """A world that no gradient comes through."""

        def imagine(self, state: WorldState, actions, pose=None) -> tuple[WorldState, ImaginedStep]:
            with torch.no_grad():
                return super().imagine(state, actions, pose)

    with pytest.raises(ConfigError, match="No gradient comes through"):
        train_in_imagination(
            Flat(AXES_ARENA), toy_contexts(AXES_ARENA), tmp_path / "a", replace(SMALL, estimator="dynamics"), TRAINING
        )

    by_token = replace(SMALL, heads=replace(SMALL.heads, tokens=True))
    with pytest.raises(ConfigError, match="no tokens"):
        train_in_imagination(world, contexts, tmp_path, by_token, TRAINING)
    with pytest.raises(ConfigError, match=r"heads\.tokens is False"):
        ActorCritic(D, KEYS, SMALL, (1, 2))
    blind = ToyWorld(ARENA)
    blind.state_size = 0  # type: ignore[misc]
    with pytest.raises(ConfigError, match="train its state space"):
        train_in_imagination(blind, contexts, tmp_path, SMALL, TRAINING)
    with pytest.raises(ConfigError, match="frames of"):
        train_in_imagination(ToyWorld(replace(ARENA, frame_size=(40, 60))), contexts, tmp_path, SMALL, TRAINING)
    with pytest.raises(ConfigError, match="actions"):
        train_in_imagination(ToyWorld(AXES_ARENA), contexts, tmp_path, SMALL, TRAINING)
    curve(tmp_path / "run", 2)
    with pytest.raises(ConfigError, match="another configuration"):
        train_in_imagination(world, contexts, tmp_path / "run", SMALL, replace(TRAINING, learning_rate=1e-4))
    with pytest.raises(ConfigError, match="imagination='state'"):
        train_in_imagination(world, contexts, tmp_path / "joint", SMALL, TRAINING, joint=object())  # type: ignore[arg-type]
    with pytest.raises(WorldFormatError, match="no agent"):
        load_agent(tmp_path / "nowhere")
