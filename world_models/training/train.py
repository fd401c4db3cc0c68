"""`train`: from recorded experience to a world on disk."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from ...errors import ConfigError, DataError
from ...rollouts.cache import TrainingCache
from ...rollouts.store import open_dataset
from ..config import preset
from ..memory.packing import packing_named
from ..pretrained import world_directory
from ..storage import read_world, save_world
from ..world_model import WorldModel
from .autoencoder import AutoencoderStage, encode_cache, mean_frame, normalise_latents
from .config import StageConfig, TrainConfig, Trained
from .dynamics import DynamicsStage
from .error import ErrorStage
from .fit import Progress, Stage, fit
from .heads import HeadsStage, stopped_again
from .run_directory import claim
from .state_space import StateStage
from .state_validation import StateScores
from .validation import Recollection, Validation, validate


def pick_device(name: str) -> torch.device:
    """The device that ``auto``, ``cpu`` or ``cuda`` stands for.

    Raises:
        ConfigError: CUDA was asked for and there is none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("CUDA was asked for, but this machine has no CUDA device; use --device cpu.")
    return torch.device("cuda" if name == "cuda" or (name == "auto" and torch.cuda.is_available()) else "cpu")


def train(
    config: TrainConfig, command: str = "", watch: Callable[[Progress, Validation | None], None] = lambda p, v: None
) -> Path | None:
    """Train a world, or go on with a run that was interrupted.

    ``config.out`` receives ``run.json``, one checkpoint per stage, the encoded data, TensorBoard logs and, at the end,
    the directory ``world`` that `load_world` opens.

    Args:
        config: the run.
        command: what the user typed, kept with the world.
        watch: called after every step with where training is, and with the scores where it has just validated.

    Returns:
        The world's directory, or None where ``stop_after`` ended the run before that.

    Raises:
        DataError: data missing, damaged, or of a split that must not be trained on.
        ConfigError: ``out`` holds a run of another configuration.
        Diverged: a loss became NaN; the last checkpoint is kept.
    """
    return _Run(config, command, watch).run()


_PLACES = ("data", "out", "validation", "device", "stop_after")


def begin_from(world: WorldModel, bases: Sequence[WorldModel]) -> None:
    """Give ``world`` the autoencoder of the first base and all its other parameters of the same name and shape, and of
    the other bases whole parts that none before has.

    Raises:
        ConfigError: the autoencoders, frames or actions differ.
    """
    given: set[str] = set()
    for number, base in enumerate(bases):
        mine, theirs = world.config, base.config
        for what in ("autoencoder", "frame_size", "actions"):
            if getattr(mine, what) != getattr(theirs, what):
                raise ConfigError(f"Training cannot start from that world: its {what.replace('_', ' ')} differs.")
        if base.origin != bases[0].origin:
            raise ConfigError(f"Training cannot start from them all: the autoencoder of number {number + 1} differs.")
        own, known = world.state_dict(), base.state_dict()
        fits = {k: known[k] for k, v in own.items() if k in known and known[k].shape == v.shape}
        world.load_state_dict({k: v for k, v in fits.items() if _part(k) not in given}, strict=False)
        given |= {_part(k) for k in known}


def _part(name: str) -> str:
    return name.split(".", 1)[0]


def _digest(world: WorldModel) -> str:
    assert world.directory is not None
    return hashlib.sha256((world.directory / "weights.safetensors").read_bytes()).hexdigest()[:16]


_STATE_PARTS: dict[Trained, tuple[str, ...]] = {
    "everything": (), "outcomes": ("outcome",), "heads": ("motion", "outcome")
}  # fmt: skip
"""Heads of the state space that are trained; none named means all of it."""


class _Run:
    def __init__(self, config: TrainConfig, command: str, watch: Callable[[Progress, Validation | None], None]) -> None:
        self.config, self.command, self.watch = config, command, watch
        device = pick_device(config.device)
        dataset = open_dataset(config.data, purpose="training")
        if dataset.split != "train":
            raise DataError(f"{config.data} holds maps of the {dataset.split} split; train on the train split only.")
        self.about_data = {"frames": dataset.num_frames, "maps": len({*dataset.map_seeds.tolist()})}
        self.cache = TrainingCache.of(dataset, tell=self._telling("unpacking"))
        self.validation: TrainingCache | None = None
        if config.validation is not None:
            held_out = open_dataset(config.validation, purpose="validation")
            if held_out.split != "validation":
                raise DataError(
                    f"{config.validation} holds maps of the {held_out.split} split; validate on the validation split."
                )
            self.validation = TrainingCache.of(held_out, tell=self._telling("unpacking"))
            if self.validation.action_spec != self.cache.action_spec:
                raise DataError(f"{config.validation} was recorded with other actions than {config.data}.")
        shape = preset(config.preset, self.cache.action_spec, self.cache.frame_size)
        packings = [packing_named(name) for name in config.packing]
        if not packings:
            raise ConfigError("Training needs at least one packing.")
        seen = replace(
            shape.cdit, context=packings[0].recent, retrieved=packings[0].retrieved,
            rates=tuple(sorted({pool for p in packings for pool in (*p.recent, *p.retrieved)})), camera=config.camera,
            positions=config.positions, memory_attention=config.memory_attention, compressed=config.compressed,
            recurrent=config.recurrent,
        )  # fmt: skip
        shape = replace(shape, cdit=seen, retrieval=config.retrieval, error_head=config.error.steps > 0)
        self.bases = [read_world(world_directory(name)) for name in config.start_from]
        if config.only != "everything":
            shape = replace(shape, error_head=self.bases[0].config.error_head)
        if self.bases and (config.only == "outcomes" or not config.heads.steps):
            shape = replace(shape, ways=self.bases[0].config.ways)
        learns_motions = config.heads.steps and config.only != "outcomes"
        again = stopped_again(self.cache) if learns_motions or not self.bases else self.bases[0].config.stopped_again
        shape = replace(shape, stopped_again=again)
        if not config.state.steps:
            spaces = [base.config.state for base in self.bases if base.config.state is not None]
            shape = replace(shape, state=spaces[0] if spaces else None)
        origin = "".join(f"-{_digest(base)}" for base in self.bases)
        self.fingerprint = f"{config.fingerprint()}-{self.cache.fingerprint}{origin}"
        torch.manual_seed(config.seed)
        self.world = WorldModel(shape).to(device)
        # What is validated and kept: the moving average of the parameters.
        self.kept = WorldModel(shape).to(device).eval().requires_grad_(False)
        self.scores: Validation | None = None
        self.state_scores: dict[str, float] = {}
        self.done = 0

    def run(self) -> Path | None:
        config, out, world = self.config, self.config.out, self.world
        self._claim()
        started = time.monotonic()
        with SummaryWriter(str(out / "tensorboard")) as self.log:
            if not self._perceive():
                return None
            self.kept.load_state_dict(world.state_dict())
            everything = config.only == "everything"
            if everything:
                self.kept.mean_frame.copy_(mean_frame(self.cache, config.seed))
            latents = self._encoded(self.cache, "latents")
            stage = HeadsStage(
                world, self.cache, latents, config.heads, config.seed, motions=config.only != "outcomes"
            )
            heads = self._fit(stage, config.heads)
            if heads is None:
                return None
            self._keep(heads)
            self.recall: Recollection | None = None
            self.states: StateScores | None = None
            if self.validation is not None and (world.config.remembers or world.state_space is not None):
                held_out = self._encoded(self.validation, "validation-latents")
                if world.config.remembers:
                    self.recall = Recollection(self.kept, self.validation, held_out)
                if world.state_space is not None:
                    self.states = StateScores(self.kept, self.validation, held_out)
            if everything:
                last = DynamicsStage(
                    world, self.cache, latents, config.dynamics, config.memory, config.seed, config.packing
                )
                average = self._fit(last, config.dynamics, self._after_dynamics_step)
                if average is None:
                    return None
                self.scores = self._validate(average, config.dynamics.steps)
            if world.state_space is not None:
                # The last packing's turn may have seen no memory.
                world.use(self.kept.config)
                space = StateStage(world, self.cache, latents, config.state, config.seed, _STATE_PARTS[config.only])
                states = self._fit(space, config.state, self._after_state_step)
                if states is None:
                    return None
                self._score_states(states, config.state.steps)
            if config.error.steps and everything:
                judging = ErrorStage(self.kept, self.cache, latents, config.error, config.seed)
                # No other stage depends on this one, so it alone depends on its configuration.
                judge = self._fit(judging, config.error, fingerprint=f"{self.fingerprint}-{config.error.fingerprint()}")
                if judge is None:
                    return None
                self._keep(judge, "error_head.")
        save_world(self.kept, out / "world", self._about(time.monotonic() - started))
        return out / "world"

    def _perceive(self) -> bool:
        """The autoencoder: trained, or the base world's; and what else of that world fits. Whether it is finished."""
        config, world = self.config, self.world
        if self.bases:
            begin_from(world, self.bases)
        else:
            stage = AutoencoderStage(world.autoencoder, self.cache, config.autoencoder, config.seed)
            average = self._fit(stage, config.autoencoder)
            if average is None:
                return False
            world.autoencoder.load_state_dict(average, strict=False)
            normalise_latents(world.autoencoder, self.cache, config.seed)
        world.autoencoder.eval().requires_grad_(False)
        return True

    def _encoded(self, cache: TrainingCache, name: str) -> NDArray[np.float16]:
        path = self.config.out / f"{name}.npy"
        return encode_cache(self.world.autoencoder, cache, path, tell=self._telling("encoding"))

    def _telling(self, stage: str) -> Callable[[int, int], None]:
        return lambda done, of: self.watch(Progress(stage, done, of, {}, {}), None)

    def _fit(
        self,
        stage: Stage,
        how: StageConfig,
        after_step: Callable[[Progress], None] | None = None,
        fingerprint: str | None = None,
    ) -> dict[str, Tensor] | None:
        """The moving average of a stage's parameters at its end, or None where the run stops before that."""
        config = self.config
        average, finished = fit(
            stage,
            how,
            config.out / f"{stage.name}.safetensors",
            fingerprint or self.fingerprint,
            precision=config.precision,
            checkpoint_every=config.checkpoint_every,
            stop_at=None if config.stop_after is None else config.stop_after - self.done,
            after_step=after_step or self._after_step,
        )
        self.done += how.steps
        return average if finished else None

    def _claim(self) -> None:
        config = json.loads(json.dumps(asdict(self.config), default=str))
        claim(self.config.out, self.fingerprint, {"command": self.command, "config": config})

    def _after_step(self, progress: Progress, validation: Validation | None = None) -> None:
        if progress.step % 10 == 0 or progress.step == progress.steps:
            for name, value in progress.losses.items():
                self.log.add_scalar(f"{progress.stage}/{name}", value, progress.step)
        self.watch(progress, validation)

    def _after_dynamics_step(self, progress: Progress) -> None:
        due = progress.step % self.config.validate_every == 0
        self._after_step(progress, self._validate(progress.average, progress.step) if due else None)

    def _after_state_step(self, progress: Progress) -> None:
        if progress.step % self.config.validate_every == 0:
            self._score_states(progress.average, progress.step)
        self._after_step(progress)

    def _score_states(self, average: dict[str, Tensor], step: int) -> None:
        self._keep(average, "state_space.")
        if self.states is not None:
            self.state_scores = self.states.score()
            for key, value in self.state_scores.items():
                self.log.add_scalar(f"validation/{key}", value, step)

    def _keep(self, average: dict[str, Tensor], prefix: str = "") -> None:
        self.kept.load_state_dict({prefix + name: value for name, value in average.items()}, strict=False)

    def _validate(self, average: dict[str, Tensor], step: int) -> Validation | None:
        self._keep(average, "cdit.")
        if self.validation is None:
            return None
        scores = validate(self.kept, self.validation)
        if self.recall is not None:
            scores = replace(scores, recollection=self.recall.score())
        for key, value in scores.scalars().items():
            self.log.add_scalar(f"validation/{key}", value, step)
        self.log.add_image("validation/true_imagined_error", scores.grid, step, dataformats="HWC")
        return scores

    def _about(self, seconds: float) -> dict[str, Any]:
        config = json.loads(json.dumps(asdict(self.config), default=str))
        return {
            "command": self.command,
            "training": {k: v for k, v in config.items() if k not in _PLACES},
            "data": self.about_data,
            "seconds_of_last_session": round(seconds),
            "versions": {name: version(name) for name in ("worldloop", "torch", "numpy")},
            "validation": None if self.scores is None else self.scores.scalars() | self.state_scores,
        }
