"""One loop trains every stage: AdamW, warm-up and cosine, moving average, checkpoints that resume exactly."""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from ...errors import WorldloopError
from .checkpoint import load_checkpoint, save_checkpoint
from .config import StageConfig


class Stage(Protocol):
    """What is trained, and how a step's loss is computed."""

    name: str

    @property
    def module(self) -> nn.Module:
        """The parameters."""

    def loss(self, step: int) -> dict[str, Tensor]:
        """Losses of training step ``step``, a function of the parameters and ``step`` alone; their sum is minimised."""


@dataclass(frozen=True)
class Progress:
    """Where a stage is.

    Attributes:
        stage: its name.
        step: steps done.
        steps: steps in all.
        losses: of the step just done.
        average: moving average of the parameters by name.
    """

    stage: str
    step: int
    steps: int
    losses: dict[str, float]
    average: dict[str, Tensor]


class Diverged(WorldloopError):
    """A loss or gradient became NaN or infinite; the last checkpoint is from before that."""


def learning_rate(config: StageConfig, step: int) -> float:
    """Linear warm-up to the peak, then a cosine to 1 % of it at the last step."""
    if step < config.warmup:
        return config.learning_rate * (step + 1) / config.warmup
    done = (step - config.warmup) / max(1, config.steps - config.warmup)
    return config.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))


def native_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 matrices natively; elsewhere it is slower than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    supported: Callable[[], bool] = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    return bool(supported())


def arithmetic(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """Autocast to bfloat16 where asked for, or where ``precision`` is ``auto`` and the device has it."""
    if precision == "bfloat16" or (precision == "auto" and native_bfloat16(device)):
        return torch.autocast(device.type, torch.bfloat16)
    return nullcontext()


def fit(
    stage: Stage,
    config: StageConfig,
    checkpoint: Path,
    fingerprint: str,
    *,
    precision: str = "auto",
    checkpoint_every: int = 250,
    stop_at: int | None = None,
    after_step: Callable[[Progress], None] = lambda progress: None,
) -> tuple[dict[str, Tensor], bool]:
    """Train a stage to its end, or on from its checkpoint.

    Args:
        stage: what to train.
        config: how.
        checkpoint: file to resume from and to write to.
        fingerprint: of the run, kept in the checkpoint.
        precision: ``auto``, ``float32`` or ``bfloat16``.
        checkpoint_every: steps between checkpoints; one is always written at the end and after Ctrl-C.
        stop_at: stop after this step as an interruption would.
        after_step: called after every step.

    Returns:
        The moving average of the parameters by name, and whether the stage is finished.

    Raises:
        KeyboardInterrupt: Ctrl-C, after the step in flight was finished and saved.
        Diverged: a loss or gradient is no number any more.
        ConfigError, WorldFormatError: the checkpoint belongs to another run, or is damaged.
    """
    module = stage.module
    device = next(module.parameters()).device
    named = dict(module.named_parameters())
    decayed = [p for p in named.values() if p.ndim > 1]
    others = [p for p in named.values() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.99), fused=True)
    average = {name: p.detach().clone() for name, p in named.items()}
    step = load_checkpoint(checkpoint, fingerprint, module, average, optimizer) if checkpoint.exists() else 0
    end = config.steps if stop_at is None else min(config.steps, stop_at)
    saved = step
    with interruptible() as interrupted:
        while step < end:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(config, step)
            with arithmetic(precision, device):
                losses = stage.loss(step)
            total = torch.stack([loss.float() for loss in losses.values()]).sum()
            optimizer.zero_grad(set_to_none=True)
            total.backward()
            norm = nn.utils.clip_grad_norm_(module.parameters(), config.clip)
            if not math.isfinite(float(norm)):
                raise Diverged(
                    f"Training of the {stage.name} diverged at step {step}; the checkpoint of step {saved} is kept. "
                    "Lower the learning rate."
                )
            optimizer.step()
            decay = min(config.ema, (1 + step) / (10 + step))
            torch._foreach_lerp_(list(average.values()), [p.detach() for p in named.values()], 1 - decay)
            step += 1
            if step % checkpoint_every == 0 or step == end or interrupted.is_set():
                save_checkpoint(checkpoint, step, fingerprint, module, average, optimizer)
                saved = step
            if interrupted.is_set():
                raise KeyboardInterrupt
            numbers = {name: float(loss.detach()) for name, loss in losses.items()}
            after_step(Progress(stage.name, step, config.steps, numbers, average))
    return average, step >= config.steps


@contextmanager
def interruptible() -> Iterator[threading.Event]:
    """An event that Ctrl-C sets, so that the step in flight can be finished and saved; a second Ctrl-C acts at once."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = signal.getsignal(signal.SIGINT)

    def ask(number: int, frame: object) -> None:
        asked.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, ask)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)
