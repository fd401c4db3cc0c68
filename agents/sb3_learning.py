"""`learn`: one run of an algorithm of Stable-Baselines3, with checkpoints, curves, interruptions and an eye on NaN."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Event

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Image, configure
from torch import Tensor

from ..errors import ConfigError
from ..world_models.training.fit import Diverged, Progress, interruptible
from .real_evaluation import RealEvaluation
from .sb3_checkpoint import load_checkpoint, save_checkpoint
from .stages import Watch

_DQN_LOGS = 16
"""Episodes between points on the curves of DQN; those of PPO and A2C have one for each roll-out."""


@dataclass(frozen=True)
class Learning:
    """What is to be learned, and where it is kept.

    Attributes:
        name: what progress is told of.
        out: directory of checkpoint and curves.
        fingerprint: of the run.
        steps: in all environments together.
        checkpoint_every: steps between checkpoints.
        stop_after: end after this step, as an interruption would.
        watch: called after every step of all environments.
        film: strips (H, W, 3) uint8 of what is lived in imagination, see `films.strips`; None: nothing is to be seen.
        film_every: steps between them.
    """

    name: str
    out: Path
    fingerprint: str
    steps: int
    checkpoint_every: int
    stop_after: int | None
    watch: Watch
    film: Callable[[], Tensor] | None = None
    film_every: int = 25_000

    @property
    def checkpoint(self) -> Path:
        """Where it goes on after an interruption."""
        return self.out / "sb3.safetensors"


@dataclass(frozen=True)
class Learned:
    """Whether the run is finished, and whether anything was paid; of a run that was taken up again that is assumed."""

    finished: bool
    paid: bool


def learn(model: BaseAlgorithm, learning: Learning, evaluation: RealEvaluation | None = None) -> Learned:
    """Let ``model`` learn to the end, or on from its checkpoint.

    Args:
        model: new, on its environments.
        learning: how long, and where it is kept.
        evaluation: trials in the real world; they may end the run.

    Raises:
        KeyboardInterrupt: Ctrl-C, after the roll-out in flight was learned from and saved.
        Diverged: a parameter, an observation or a reward is no number any more; the last checkpoint is kept.
        ConfigError, WorldFormatError: the checkpoint belongs to another run or has more steps, or is damaged.
    """
    path = learning.checkpoint
    if path.exists():
        load_checkpoint(path, model, learning.fingerprint)
        if model.num_timesteps > learning.steps:
            told = f"{learning.out} holds a run of {model.num_timesteps} steps already, more than {learning.steps}"
            raise ConfigError(f"{told}; ask for as many, or choose another directory.")
    model.set_logger(configure(str(learning.out / "tensorboard"), ["tensorboard"]))
    with interruptible() as interrupted:
        keeper = _Keeper(learning, path, interrupted, model.num_timesteps)
        shown = _Shown(learning, model.num_timesteps)
        try:
            if model.num_timesteps < learning.steps:
                model.learn(
                    learning.steps - model.num_timesteps,
                    callback=[keeper, shown] if evaluation is None else [keeper, shown, evaluation],
                    log_interval=_DQN_LOGS if hasattr(model, "replay_buffer") else 1,
                    reset_num_timesteps=False,
                )
            keeper.check(model)
        except _Stopped:
            return Learned(False, keeper.paid)
        except ValueError:
            # Distributions refuse NaN before anyone else notices.
            keeper.check(model)
            raise
        finally:
            model.logger.close()
    if evaluation is None or not evaluation.stopped:
        save_checkpoint(path, model, learning.fingerprint)
    return Learned(True, keeper.paid)


class _Stopped(Exception):
    """The run has been asked to end here."""


class _Keeper(BaseCallback):
    """Checkpoints between roll-outs, progress, and a check that everything is a number still."""

    def __init__(self, learning: Learning, path: Path, interrupted: Event, step: int) -> None:
        super().__init__()
        self._learning, self._path, self._interrupted, self._saved = learning, path, interrupted, step
        self.paid = step > 0

    def check(self, model: BaseAlgorithm) -> None:
        """Refuse parameters that are no numbers.

        Raises:
            Diverged: there are some.
        """
        if not all(bool(parameter.isfinite().all()) for parameter in model.policy.parameters()):
            raise self._diverged(model, "a parameter is no number any more; lower the learning rate")

    def _on_rollout_start(self) -> None:
        model, learning = self.model, self._learning
        self.check(model)
        now, every = model.num_timesteps, learning.checkpoint_every
        stopping = learning.stop_after is not None and now >= learning.stop_after
        if now // every > self._saved // every or stopping or self._interrupted.is_set():
            save_checkpoint(self._path, model, learning.fingerprint)
            self._saved = now
        if self._interrupted.is_set():
            raise KeyboardInterrupt
        if stopping:
            raise _Stopped

    def _on_step(self) -> bool:
        rewards, seen = self.locals["rewards"], self.locals["new_obs"]
        if not (np.isfinite(rewards).all() and np.isfinite(seen).all()):
            raise self._diverged(self.model, "the world gave a reward or a state that is no number")
        self.paid = self.paid or bool(np.any(rewards))
        told = [episode["r"] for episode in self.model.ep_info_buffer or ()]
        steps = self._learning.steps
        progress = Progress(self._learning.name, min(self.num_timesteps, steps), steps, {}, {})
        self._learning.watch(progress, {"return": float(np.mean(told))} if told else {})
        return True

    def _diverged(self, model: BaseAlgorithm, why: str) -> Diverged:
        kept = f"The checkpoint of step {self._saved} is kept" if self._path.exists() else "There is no checkpoint yet"
        return Diverged(f"{self._learning.name} diverged by step {model.num_timesteps}: {why}. {kept}.")


class _Shown(BaseCallback):
    """Curves that Stable-Baselines3 has not: what the critic expects, and pictures of imagined lives."""

    def __init__(self, learning: Learning, step: int) -> None:
        super().__init__()
        self._film, self._every, self._filmed = learning.film, learning.film_every, step - 1

    def _on_rollout_start(self) -> None:
        now = self.num_timesteps
        if self._film is not None and now // self._every > self._filmed // self._every:
            self._show()
            self._filmed = now

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        values = getattr(getattr(self.model, "rollout_buffer", None), "values", None)
        if values is not None:
            self.logger.record("rollout/value", float(np.mean(values)))

    def _on_training_end(self) -> None:
        if self._film is not None:
            self._show()
            self.logger.dump(self.num_timesteps)

    def _show(self) -> None:
        assert self._film is not None
        self.logger.record("imagined/lives", Image(self._film(), "HWC"))
