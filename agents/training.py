"""`train_in_imagination`: an agent that learns without touching the real world beyond what was recorded of it."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from ..envs.contexts import Contexts
from ..envs.imagination import check_curiosity
from ..errors import ConfigError
from ..rollouts.cache import TrainingCache
from ..world_models.storage import read_world, save_world
from ..world_models.training.autoencoder import encode_cache
from ..world_models.training.config import StageConfig
from ..world_models.training.fit import Progress, fit
from ..world_models.training.run_directory import claim
from ..world_models.training.state_space import StateStage
from ..world_models.world import World
from ..world_models.world_model import WorldModel
from .actor_critic import ActorCritic, ActorCriticConfig
from .agent import Agent
from .cloning import Recorded, check_recorded, cloning_training, imitate
from .films import strips
from .imagined_batch import ObservedStarts, check_states, tokens_of
from .stages import ImaginationStage, JointStage, Watch
from .stored import perception
from .trials import RealTrials


def agent_training(steps: int = 3000) -> StageConfig:
    """How heads are trained unless told otherwise."""
    return StageConfig(steps, batch_size=64, learning_rate=1e-3, warmup=50, weight_decay=0.0, clip=10.0, ema=0.99)


def train_in_imagination(
    world: World,
    contexts: Contexts,
    out: Path,
    config: ActorCriticConfig | None = None,
    training: StageConfig | None = None,
    *,
    joint: TrainingCache | None = None,
    imitated: Recorded | None = None,
    imitating: StageConfig | None = None,
    curiosity: float = 0.0,
    trials: RealTrials | None = None,
    seed: int = 0,
    checkpoint_every: int = 250,
    film_every: int = 500,
    stop_after: int | None = None,
    about: dict[str, Any] | None = None,
    watch: Watch = lambda progress, watched: None,
) -> Agent | None:
    """Train an agent in a learned world, or go on with a run that was interrupted.

    ``out`` receives ``run.json``, a checkpoint, TensorBoard logs (losses, returns, values, entropy, strips of imagined
    lives), what trials find and, at the end, the directory ``agent`` that `load_agent` opens.

    Args:
        world: where to imagine; joint training changes its state space, and keeps the world it became with the agent.
        contexts: recorded starts.
        out: directory of the run.
        config: how to learn.
        training: steps, batch size, learning rate.
        joint: recorded experience, to train the world's state space on in the same steps, see `JointStage`.
        imitated: what was done in these recordings, and what came of it, is where policy and critic begin, see
            `imitate`; default: with nothing.
        imitating: how that is learned; default: `cloning_training`.
        curiosity: reward of imagined steps that show what memory has not, see `roll_out`.
        trials: of the moving average in the real world, at so many training steps; none by default.
        seed: of everything random.
        checkpoint_every: steps between checkpoints.
        film_every: steps between strips of imagined lives.
        stop_after: end after this step, as an interruption would.
        about: where the agent comes from, kept with it.
        watch: called after every step.

    Returns:
        The agent (moving average of the parameters), or None where ``stop_after`` ended the run before that.

    Raises:
        ConfigError: an estimator that does not fit the actions or the world, a world without a state space, starts or
            recordings of another world, curiosity in a world that does not remember what it imagines, or ``out`` holds
            another run.
        DataError: there is nothing to imitate.
        Diverged: a loss became NaN; the last checkpoint is kept.
    """
    config, training = config or ActorCriticConfig(), training or agent_training()
    check_states(world)
    check_curiosity(curiosity, world)
    if joint is not None:
        _check_joint(world, joint)
    torch.manual_seed(seed)
    tokens = tokens_of(world, config.heads.tokens)
    heads = ActorCritic(world.state_size, world.actions, config, tokens).to(world.device)
    starts = ObservedStarts(world, contexts)
    key = _fingerprint(world, contexts, config, training, seed, joint) + (f" {curiosity}" if curiosity else "")
    imitating = imitating or cloning_training()
    if imitated is not None:
        check_recorded(world, imitated)
        key += f" {imitated.to_json()} {imitating.fingerprint()}"
    claim(out, key)
    stage = (
        ImaginationStage(heads, starts, training, seed, curiosity)
        if joint is None
        else JointStage(heads, starts, _states(world, joint, training, seed, out), training, seed)
    )
    checkpoint = out / f"{stage.name}.safetensors"
    if imitated is not None and not checkpoint.exists():
        imitate(
            heads, world, imitated, imitating, out / "cloning.safetensors", key, discount=config.discount, seed=seed,
            checkpoint_every=checkpoint_every, watch=watch,
        )  # fmt: skip
    paid = False

    def keep(directory: Path, steps: int) -> Agent:
        """Write the agent as it is now, and in joint training its world."""
        home = world
        if joint is not None:
            assert isinstance(world, WorldModel)
            # In whole precision: the heads know states as this very encoder makes them.
            save_world(world, directory / "world", {"joint": about or {}}, torch.float32)
            home = read_world(directory / "world", world.device, imagination=world.config.imagination)
        agent = Agent(home, heads, seed)
        agent.save(directory, {"training": asdict(training), "seed": seed, "steps": steps, **(about or {})})
        return agent

    with SummaryWriter(str(out / "tensorboard")) as log:

        def after_step(progress: Progress) -> None:
            nonlocal paid
            paid = paid or stage.watched["reward"] != 0
            if progress.step % 10 == 0 or progress.step == progress.steps:
                for name, number in progress.losses.items():
                    log.add_scalar(f"loss/{name}", number, progress.step)
                for name, number in stage.watched.items():
                    log.add_scalar(f"imagined/{name}", number, progress.step)
            if progress.step % film_every == 0 or progress.step == progress.steps:
                lives = strips(world, stage.film(progress.step))
                log.add_image("imagined/lives", lives, progress.step, dataformats="HWC")
            watch(progress, stage.watched)
            if trials is not None and trials.due(progress.step - 1, progress.step):
                with _averaged(stage.module, progress.average):
                    trial = trials.run(
                        Agent(world, heads, seed), progress.step, lambda directory: keep(directory, progress.step)
                    )
                for name, number in trial.scalars().items():
                    log.add_scalar(f"real/{name}", number, progress.step)
                if trials.enough(trial):
                    raise _GoodEnough(progress)

        step = training.steps
        try:
            average, finished = fit(
                stage, training, checkpoint, key, precision="float32",
                checkpoint_every=checkpoint_every, stop_at=stop_after, after_step=after_step,
            )  # fmt: skip
        except _GoodEnough as reached:
            average, finished, step = reached.progress.average, True, reached.progress.step
    if not finished:
        return None
    if not paid:
        warnings.warn("Nothing was ever paid in imagination: this agent has learned nothing.", stacklevel=2)
    stage.module.load_state_dict(average, strict=False)
    agent = keep(out / "agent", step)
    if joint is not None and isinstance(world, WorldModel):
        world.requires_grad_(False)
    return agent


class _GoodEnough(Exception):
    """A trial has found that training may end."""

    def __init__(self, progress: Progress) -> None:
        super().__init__()
        self.progress = progress


@contextmanager
def _averaged(module: nn.Module, average: dict[str, Tensor]) -> Iterator[None]:
    """``module`` with the moving average of its parameters, for a while."""
    own = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
    module.load_state_dict(average, strict=False)
    try:
        yield
    finally:
        module.load_state_dict(own, strict=False)


def _check_joint(world: World, cache: TrainingCache) -> None:
    if not isinstance(world, WorldModel) or world.config.imagination != "state":
        raise ConfigError("Joint training needs a world that imagines in state space: imagination='state'.")
    if cache.action_spec != world.actions or cache.frame_size != tuple(world.frame_size):
        raise ConfigError("The recorded experience has other actions or frames than this world.")


def _states(world: World, cache: TrainingCache, training: StageConfig, seed: int, out: Path) -> StateStage:
    """What trains the state space of ``world`` in joint training."""
    assert isinstance(world, WorldModel) and world.state_space is not None
    latents = encode_cache(world.autoencoder, cache, out / "latents.npy")
    world.state_space.requires_grad_(True)
    return StateStage(world, cache, latents, training, seed)


def _fingerprint(
    world: World,
    contexts: Contexts,
    config: ActorCriticConfig,
    training: StageConfig,
    seed: int,
    joint: TrainingCache | None,
) -> str:
    """Of all that decides the curve."""
    digest = hashlib.sha256(json.dumps([asdict(config), asdict(training), seed], sort_keys=True).encode())
    digest.update(perception(world).encode())
    for array in contexts.experience():
        digest.update(array.tobytes())
    digest.update(("" if joint is None else joint.fingerprint).encode())
    return digest.hexdigest()[:16]
