"""`train_agent`: a learned world and recorded starts in, an agent on disk out."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..envs.contexts import Contexts
from ..envs.starts import Starts
from ..errors import ConfigError, DataError
from ..rollouts.cache import TrainingCache
from ..rollouts.store import RolloutDataset, open_dataset
from ..world_models.config import Imagination
from ..world_models.pretrained import load_world
from ..world_models.training.config import StageConfig
from ..world_models.training.train import pick_device
from ..world_models.world_model import WorldModel
from .actor_critic import ActorCriticConfig
from .cloning import clone_behaviour
from .training import Watch, agent_training, train_in_imagination


@dataclass(frozen=True)
class TrainAgentConfig:
    """Train an agent in a learned world, without touching the real one beyond what was recorded of it."""

    out: Path
    """Directory for checkpoints, logs and the finished agent. A run that was interrupted goes on where it was."""
    world: str = "doom-rooms-nano"
    """A bundled world, or the directory of a trained one; it needs a state space."""
    data: Path | None = None
    """Data set of the train split to draw starts from; default: the recorded starts that came with the world."""
    method: Literal["imagination", "cloning"] = "imagination"
    """Learn by actor-critic in imagination, or, a baseline, to do what was done in the data."""
    imagination: Imagination = "state"
    """Imagine without drawing, many times faster, or in video."""
    starts: int = 512
    """Recorded starts drawn from the data."""
    context: int = 32
    """Frames that the world observes of each."""
    samples: int = 4096
    """Recorded choices that cloning learns from."""
    joint: bool = False
    """Train the world's state space on the data in the same steps, with the critic's gradient in it. The world it
    becomes is kept with the agent."""
    agent: ActorCriticConfig = field(default_factory=ActorCriticConfig)
    """How the agent learns."""
    training: StageConfig = field(default_factory=agent_training)
    """Steps, batch size, learning rate."""
    seed: int = 0
    """Seed of everything random."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train."""
    checkpoint_every: int = 250
    """Steps between checkpoints."""
    stop_after: int | None = None
    """End the run after this step, as an interruption would; the next run goes on from there."""

    def __post_init__(self) -> None:
        if self.data is None and (self.joint or self.method == "cloning"):
            raise ConfigError("Joint training and cloning learn from recorded experience: give --data.")
        if self.joint and (self.method == "cloning" or self.imagination == "video"):
            raise ConfigError("Joint training is actor-critic in imagination, in state space.")
        if min(self.starts, self.context, self.samples) < 1:
            raise ConfigError("starts, context and samples are at least 1.")


def train_agent(
    config: TrainAgentConfig, command: str = "", watch: Watch = lambda progress, watched: None
) -> Path | None:
    """Train an agent, or go on with a run that was interrupted.

    Args:
        config: the run.
        command: what the user typed, kept with the agent.
        watch: called after every step.

    Returns:
        The agent's directory, which `load_agent` opens, or None where ``stop_after`` ended the run before that.

    Raises:
        ConfigError: a configuration that does not fit the world or the run in ``out``; a world without a state space;
            data in which nothing is ever paid.
        DataError: data missing, damaged, or of a split that must not be trained on.
        WorldFormatError: no such world.
        Diverged: a loss became NaN; the last checkpoint is kept.
    """
    world = load_world(config.world, pick_device(config.device), imagination=config.imagination)
    dataset = None if config.data is None else _dataset(config.data)
    about: dict[str, Any] = {
        "command": command,
        "config": json.loads(json.dumps(asdict(config), default=str)),
    }
    if config.method == "cloning":
        assert dataset is not None
        agent = clone_behaviour(
            world, TrainingCache.of(dataset), config.out, config.agent, config.training, samples=config.samples,
            context=config.context, seed=config.seed, checkpoint_every=config.checkpoint_every,
            stop_after=config.stop_after, about=about, watch=watch,
        )  # fmt: skip
    else:
        cache = None if dataset is None else TrainingCache.of(dataset)
        if cache is not None and not cache.rewards.any():
            raise ConfigError(f"Nothing is ever paid in {config.data}: an agent has nothing to learn from it.")
        agent = train_in_imagination(
            world, _contexts(world, dataset, config), config.out, config.agent, config.training,
            joint=cache if config.joint else None, seed=config.seed, checkpoint_every=config.checkpoint_every,
            stop_after=config.stop_after, about=about, watch=watch,
        )  # fmt: skip
    return None if agent is None else config.out / "agent"


def _dataset(path: Path) -> RolloutDataset:
    dataset = open_dataset(path, purpose="training")
    if dataset.split != "train":
        raise DataError(f"{path} holds maps of the {dataset.split} split; train on the train split only.")
    return dataset


def _contexts(world: WorldModel, dataset: RolloutDataset | None, config: TrainAgentConfig) -> Contexts:
    if dataset is not None:
        return Contexts.from_dataset(dataset, config.starts, config.context, config.seed)
    return Starts(world, None).contexts
