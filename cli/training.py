"""`worldloop train`, `worldloop train-agent` and `worldloop run`, which does it all."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass, field
from typing import Any

from ..agents.dyna_config import DynaConfig
from ..agents.train import TrainAgentConfig
from ..evaluation.transfer import TransferConfig
from ..evaluation.transfer_actors import AgentPlanning
from ..world_models.training.config import TrainConfig
from .console import ERROR, OUT, Bars


@dataclass(frozen=True)
class Train(TrainConfig):
    """Train a world on recorded experience, or go on with a run that was interrupted."""


@dataclass(frozen=True)
class TrainAgent(TrainAgentConfig):
    """Train an agent in a learned world, or go on with a run that was interrupted."""


@dataclass(frozen=True)
class Run(DynaConfig):
    """From nothing to an agent, in rounds: record the real world, train a world on all recordings, train an agent in
    it, try it on held-out maps; record more with that agent. Hours; the same command goes on after an interruption."""

    transfer: TransferConfig = field(default_factory=lambda: TransferConfig(("find-near",), episodes=100))
    """How the agent of every round is tried in the real world."""
    planning: AgentPlanning = field(default_factory=AgentPlanning)
    """Whether it plans there too, and how."""
    smoke: bool = False
    """Next to no data and steps, whatever is said above: shows in minutes that everything runs, and nothing else."""


def do_train(config: Train) -> None:
    """Train a world, and give it recorded starts."""
    from ..envs.contexts import add_contexts
    from ..world_models.training.fit import Progress as Step
    from ..world_models.training.train import train
    from ..world_models.training.validation import Validation

    with Bars() as bars:

        def watch(step: Step, scores: Validation | None) -> None:
            if step.step % 10 == 0 or step.step == step.steps:
                losses = " ".join(f"{name} {value:.4f}" for name, value in step.losses.items())
                bars(step.stage, step.step, step.steps, losses)
            if scores is not None:
                named = ", ".join(f"{k} {v:.2f}" for k, v in scores.scalars().items())
                ERROR.print(f"step {step.step}, validation in dB: {named}")

        world = train(config, shlex.join(["worldloop", *sys.argv[1:]]), watch)
        if world:
            add_contexts(world, config.data, seed=config.seed)
    OUT.print(f"The world is in {world}." if world else f"Stopped as asked; the same command goes on in {config.out}.")


def do_train_agent(config: TrainAgent) -> None:
    """Train an agent."""
    from ..agents.train import train_agent

    with Bars() as bars:

        def watch(step: Any, watched: dict[str, float]) -> None:
            if step.step % 10 == 0 or step.step == step.steps:
                told = [name for name in ("return", "value", "entropy") if name in watched]
                bars(step.stage, step.step, step.steps, " ".join(f"{name} {watched[name]:.3f}" for name in told))

        agent = train_agent(config, shlex.join(["worldloop", *sys.argv[1:]]), watch)
    OUT.print(f"The agent is in {agent}." if agent else f"Stopped as asked; the same command goes on in {config.out}.")


def do_run(verb: Run) -> None:
    """Go through all rounds."""
    from dataclasses import fields, replace

    from ..agents.dyna import run
    from ..agents.dyna_config import smoke
    from ..evaluation.transfer_actors import TransferJudge
    from ..world_models.training.train import pick_device

    config, tests = DynaConfig(**{f.name: getattr(verb, f.name) for f in fields(DynaConfig)}), verb.transfer
    if verb.smoke:
        config, tests = smoke(config), replace(tests, tasks=("find-near",), episodes=4, envs=2, max_steps=12)
    judge = TransferJudge(tests, verb.planning, str(pick_device(verb.device)))
    with Bars() as bars:
        done = run(config, judge, shlex.join(["worldloop", *sys.argv[1:]]), bars)
    OUT.print(str(done), markup=False)
    OUT.print(f"The last agent is in {config.directory(config.rounds - 1) / 'agent' / 'agent'}.")
