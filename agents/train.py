"""`train_agent`: a learned world and recorded starts in, an agent on disk out."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from ..envs.contexts import Contexts
from ..envs.doom_rooms.env import DoomRoomsEnv
from ..envs.doom_rooms.tasks import Level
from ..envs.starts import Starts
from ..errors import ConfigError, DataError
from ..rollouts.cache import TrainingCache
from ..rollouts.store import RolloutDataset, open_dataset
from ..world_models.config import Imagination, Motions
from ..world_models.prediction.flow import Sampler
from ..world_models.pretrained import load_world
from ..world_models.training.config import StageConfig
from ..world_models.training.fit import Progress
from ..world_models.training.train import pick_device
from ..world_models.world_model import WorldModel
from .actor_critic import ActorCritic, ActorCriticConfig
from .agent import Agent, load_agent
from .cloning import CLONING, PERCEIVING, Recorded, clone_behaviour, cloning_training
from .distilling import distil_plans
from .heads import HeadsConfig
from .planning import PlanSearch
from .sb3_config import Algorithm, Sb3Config, check_installed, imagined_sb3
from .stages import Watch
from .training import agent_training, train_in_imagination
from .trials import RealTrials, TrialsConfig

_UNPACKING = "unpacking"
PREPARING = (_UNPACKING, PERCEIVING, CLONING)
"""Stages that come before anything is imagined."""
Method = Literal["imagination", "cloning", "distilling", "sb3", "ppo-real"]
"""``imagination``: our actor-critic; ``cloning``: do what was done in the data; ``distilling``: do what planning with a
teacher finds; ``sb3``: an algorithm of Stable-Baselines3 in imagination; ``ppo-real``: its PPO in the real world, which
imagines nothing."""


def imagined_actor_critic() -> ActorCriticConfig:
    """How our actor-critic learns in imagined video unless told otherwise (docs/find-near.md)."""
    return ActorCriticConfig(HeadsConfig(tokens=True), discount=0.95, entropy=3e-3)


def imagined_training() -> StageConfig:
    """Its steps: little more than 100 000 imagined ones in all."""
    return replace(agent_training(240), batch_size=32, ema=0.95)


@dataclass(frozen=True)
class TrainAgentConfig:
    """Train an agent in a learned world, touching the real one no more than what was recorded of it; or a baseline."""

    out: Path
    """Directory for checkpoints, logs and the finished agent. A run that was interrupted goes on where it was."""
    world: str = "doom-rooms-nano"
    """A bundled world, or the directory of a trained one; it needs a state space. Of ppo-real it gives frame size and
    actions."""
    data: Path | None = None
    """Data set of the train split to draw starts from, and to imitate; default: the recorded starts that came with the
    world, and nothing to imitate."""
    method: Method = "sb3"
    """Learn by an algorithm of Stable-Baselines3 in imagination, or by our actor-critic there; or, baselines, do what
    was done in the data, or learn by PPO in the real world."""
    imagination: Imagination = "video"
    """Imagine in video, or without drawing: many times faster, and what is learned there holds less in reality."""
    denoising_steps: int | None = 6
    """In video: calls of the video model for each frame; None: the world's. Where something is to be found that is
    not in view, few are not enough: it is never imagined then."""
    sampler: Sampler | None = "multistep"
    """In video: how frames are drawn in these steps; None: the world's way. Six steps of multistep show as much of
    what is possible as forty of euler."""
    motions: Motions | None = None
    """Where actions lead in imagination: to the likeliest place, or drawn; default: drawn, if the world knows more than
    the likeliest."""
    curiosity: float = 0.02
    """In imagination, in video: reward of a step that shows what memory has not; less where it shows but little. 0 for
    none."""
    imitate: bool = True
    """In imagination, where there is --data (not DQN): begin with a policy that does what was done in it, and a critic
    that knows what came of it; learned from --samples choices as --cloning says."""
    rewarded: bool = True
    """Cloning and --imitate learn only from episodes in which more was earned than lost."""
    starts: int = 8192
    """Recorded starts drawn from the data."""
    beginnings: float = 0.3
    """Share of them that are beginnings of episodes, as a task begins; the others may be anywhere in one. Of the walks
    that cloning and --imitate learn from, too."""
    stopped: float = 0.0
    """Share of them at which a walker has just been stopped dead: seldom where they are anywhere, and hard to leave."""
    context: int = 24
    """Frames that the world observes of each."""
    shortest: int | None = 1
    """Frames of the starts with least to remember: from so many up to --context, each as likely; None: all have
    --context. Cloning and --imitate learn what was done after so many frames of a walk, up to --context."""
    samples: int = 40_000
    """Recorded choices that cloning and --imitate learn from."""
    teacher: Path | None = None
    """With distilling: the agent, a bundled one or a directory, whose policy proposes plans, whose critic ends them,
    and whose policy learns from them."""
    planning: PlanSearch = field(default_factory=PlanSearch)
    """With distilling: how plans are searched."""
    plans: int = 4096
    """With distilling: choices that are planned."""
    depth: int = 4
    """With distilling: how many of them one after the other from each recorded start."""
    joint: bool = False
    """Train the world's state space on the data in the same steps, with the critic's gradient in it. The world it
    becomes is kept with the agent."""
    agent: ActorCriticConfig = field(default_factory=imagined_actor_critic)
    """How the agent learns by actor-critic, and how large it is."""
    training: StageConfig = field(default_factory=imagined_training)
    """Steps, batch size, learning rate, of actor-critic."""
    cloning: StageConfig = field(default_factory=cloning_training)
    """The same of cloning, --imitate and distilling."""
    algorithm: Algorithm = "PPO"
    """With sb3: which one."""
    imagined_steps: int = 100_000
    """With sb3: steps in all imagined environments together."""
    time_limit: int = 15
    """With sb3: imagined steps after which an episode is cut off."""
    real_steps: int = 200_000
    """With ppo-real: steps in all real environments together."""
    level: Level = "near"
    """Real episodes, of ppo-real and of trials: how far the goal is. What is recorded by default has it far."""
    shaping: bool = False
    """With ppo-real: reward coming nearer to the goal, too."""
    sb3: Sb3Config = field(default_factory=imagined_sb3)
    """How the agent learns with sb3."""
    real: Sb3Config = field(default_factory=Sb3Config)
    """How the agent learns with ppo-real."""
    trials: TrialsConfig = field(default_factory=TrialsConfig)
    """Trials in the real world during training."""
    seed: int = 0
    """Seed of everything random."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train."""
    checkpoint_every: int = 250
    """Steps of actor-critic and cloning between checkpoints."""
    stop_after: int | None = None
    """End the run after this step, as an interruption would; the next run goes on from there."""

    def __post_init__(self) -> None:
        if self.data is None and (self.joint or self.method == "cloning"):
            raise ConfigError("Joint training and cloning learn from recorded experience: give --data.")
        if (self.teacher is None) == (self.method == "distilling"):
            raise ConfigError("Distilling, and nothing else, needs a trained agent: give --teacher one.")
        if self.joint and (self.method != "imagination" or self.imagination == "video"):
            raise ConfigError(
                "Joint training is actor-critic in imagination, in state space: give --method imagination and "
                "--imagination state."
            )
        if self.method in ("cloning", "distilling") and self.trials.every:
            raise ConfigError(f"{self.method.capitalize()} has no trials in the real world: leave out --trials.every.")
        if self.curiosity < 0:
            raise ConfigError(f"Curiosity is at least 0; got {self.curiosity}.")
        counts = (self.starts, self.context, self.samples, self.imagined_steps, self.time_limit, self.real_steps)
        if min(counts) < 1:
            raise ConfigError("starts, context, samples, imagined_steps, time_limit and real_steps are at least 1.")
        if min(self.training.steps, self.cloning.steps) < 1:
            raise ConfigError("Steps of training and cloning are at least 1; --no-imitate leaves out imitating.")
        if min(self.beginnings, self.stopped) < 0 or not self.beginnings + self.stopped <= 1:
            raise ConfigError(f"beginnings and stopped are shares, 0 … 1; got {self.beginnings} and {self.stopped}.")
        if self.shortest is not None and not 1 <= self.shortest <= self.context:
            raise ConfigError(f"shortest lies between 1 and the context of {self.context}; got {self.shortest}.")
        if self.method == "distilling" and not 1 <= self.depth <= self.plans:
            raise ConfigError(f"depth lies in 1 … plans; got {self.depth} and {self.plans}.")


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
            data in which nothing is ever paid; Stable-Baselines3 is needed and not installed.
        DataError: data missing, damaged, or of a split that must not be trained on.
        WorldFormatError: no such world.
        Diverged: a loss became NaN; the last checkpoint is kept.
    """
    world = _world(config)
    dataset = None if config.data is None else _dataset(config.data)

    def tell(done: int, of: int) -> None:
        watch(Progress(_UNPACKING, done, of, {}, {}), {})

    cache = None if dataset is None else TrainingCache.of(dataset, tell=tell)
    about: dict[str, Any] = {
        "command": command,
        "config": json.loads(json.dumps(asdict(config), default=str)),
    }
    if config.method == "cloning":
        assert cache is not None
        agent = clone_behaviour(
            world, _recorded(cache, config), config.out, config.agent, config.cloning,
            seed=config.seed, checkpoint_every=config.checkpoint_every, stop_after=config.stop_after, about=about,
            watch=watch,
        )  # fmt: skip
    elif config.method == "distilling":
        agent = _distilled(world, _contexts(world, dataset, cache, config), config, about, watch)
    elif config.method == "ppo-real":
        agent = _in_reality(world, config, about, watch)
    else:
        agent = _in_imagination(world, dataset, cache, config, about, watch)
    return None if agent is None else config.out / "agent"


def _world(config: TrainAgentConfig) -> WorldModel:
    drawn = {"denoising_steps": config.denoising_steps, "sampler": config.sampler, "motions": config.motions}
    overrides = {name: value for name, value in drawn.items() if value is not None}
    device = pick_device(config.device)
    world = load_world(config.world, device, imagination=config.imagination, **overrides)
    if config.motions is None and world.config.ways > 1:
        return load_world(config.world, device, imagination=config.imagination, **overrides, motions="drawn")
    return world


def _in_imagination(
    world: WorldModel,
    dataset: RolloutDataset | None,
    cache: TrainingCache | None,
    config: TrainAgentConfig,
    about: dict[str, Any],
    watch: Watch,
) -> Agent | None:
    if cache is not None and not cache.rewards.any():
        raise ConfigError(f"Nothing is ever paid in {config.data}: an agent has nothing to learn from it.")
    contexts, trials = _contexts(world, dataset, cache, config), _trials(world, config)
    curiosity = config.curiosity if config.imagination == "video" else 0.0
    imitates = config.imitate and (config.method, config.algorithm) != ("sb3", "DQN")
    imitated = _recorded(cache, config) if imitates and cache is not None else None
    if config.method == "sb3":
        check_installed()
        from .sb3 import train_with_sb3

        return train_with_sb3(
            world, contexts, config.out, config.algorithm, config.imagined_steps, config.time_limit, config.sb3,
            curiosity=curiosity, imitated=imitated, imitating=config.cloning, trials=trials,
            seed=config.seed, stop_after=config.stop_after, about=about, watch=watch,
        )  # fmt: skip
    return train_in_imagination(
        world, contexts, config.out, config.agent, config.training,
        joint=cache if config.joint else None, imitated=imitated, imitating=config.cloning, curiosity=curiosity,
        trials=trials, seed=config.seed, checkpoint_every=config.checkpoint_every, stop_after=config.stop_after,
        about=about, watch=watch,
    )  # fmt: skip


def _recorded(cache: TrainingCache, config: TrainAgentConfig) -> Recorded:
    return Recorded(cache, config.samples, config.context, config.shortest, config.beginnings, config.rewarded)


def _distilled(
    world: WorldModel, contexts: Contexts, config: TrainAgentConfig, about: dict[str, Any], watch: Watch
) -> Agent | None:
    assert config.teacher is not None
    teacher = load_agent(config.teacher, world)
    if not isinstance(teacher.heads, ActorCritic):
        raise ConfigError(f"The agent in {config.teacher} learned by Stable-Baselines3; distilling needs one of ours.")
    return distil_plans(
        world, contexts, config.out, deepcopy(teacher.heads), config.cloning, config.planning, teacher=teacher,
        samples=config.plans // config.depth, depth=config.depth, seed=config.seed,
        checkpoint_every=config.checkpoint_every, stop_after=config.stop_after, about=about, watch=watch,
    )  # fmt: skip


def _in_reality(world: WorldModel, config: TrainAgentConfig, about: dict[str, Any], watch: Watch) -> Agent | None:
    check_installed()
    from .sb3 import train_in_reality

    make_env = partial(
        DoomRoomsEnv, task="find", level=config.level, split="train", shaping=config.shaping, **_fitting(world)
    )
    return train_in_reality(
        make_env, config.out, config.real_steps, config.real, identity=f"{config.level} {config.shaping}",
        trials=_trials(world, config), seed=config.seed, device=str(pick_device(config.device)),
        stop_after=config.stop_after, about=about, watch=watch,
    )  # fmt: skip


def _trials(world: WorldModel, config: TrainAgentConfig) -> RealTrials | None:
    if not config.trials.every:
        return None
    make_env = partial(DoomRoomsEnv, task="find", level=config.level, split="validation", **_fitting(world))
    return RealTrials(make_env, config.trials, config.out, config.seed)


def _fitting(world: WorldModel) -> dict[str, Any]:
    """What makes DoomRooms look and act as ``world`` does."""
    kind = "discrete" if world.actions.kind == "discrete" else "continuous"
    return {"frame_size": tuple(world.frame_size), "actions": kind}


def _dataset(path: Path) -> RolloutDataset:
    dataset = open_dataset(path, purpose="training")
    if dataset.split != "train":
        raise DataError(f"{path} holds maps of the {dataset.split} split; train on the train split only.")
    return dataset


def _contexts(
    world: WorldModel, dataset: RolloutDataset | None, cache: TrainingCache | None, config: TrainAgentConfig
) -> Contexts:
    if dataset is not None:
        shares = config.beginnings, config.stopped
        return Contexts.from_dataset(
            dataset, config.starts, config.context, config.seed, *shares, config.shortest, cache
        )
    return Starts(world, None).contexts
