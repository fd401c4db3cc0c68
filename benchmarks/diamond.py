"""worldloop's vector environment beside DIAMOND's ``WorldModelEnv``, step by step in one process.

DIAMOND (Alonso et al. 2024) is not part of worldloop; its checkout is named on the command line::

    git clone https://github.com/eloialonso/diamond /tmp/diamond
    python -m worldloop.benchmarks.diamond --checkout /tmp/diamond

Its denoiser and its reward model have the sizes of its own configuration, random weights, three denoising steps and
frames of the world's size. It has no memory; worldloop reads its own in every step. Both return frames. The two take
turns, so that a machine that slows down slows both.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock

import torch
import tyro

from ..envs.imagined_vector import ImaginedVectorEnv
from ..errors import ConfigError
from ..evaluation.report import jsonable, provenance
from ..files import write_json
from ..world_models.pretrained import load_world
from .timing import machine, ratios, spread, take_turns

_UNUSED = ("omegaconf", "wandb", "torcheval", "torcheval.metrics", "torcheval.metrics.functional")
"""Packages that DIAMOND imports and that stepping its environment does not use."""


@dataclass(frozen=True)
class DiamondBenchmark:
    """Measure worldloop's and DIAMOND's imagined environments side by side."""

    checkout: Path
    """DIAMOND's repository."""
    world: str = "doom-rooms-tiny"
    """Name or directory of worldloop's world."""
    batches: tuple[int, ...] = (1, 8, 64)
    """Worlds stepped side by side."""
    horizon: int = 50
    """Steps of an episode."""
    repeats: int = 9
    """Turns of each."""
    seconds: float = 3.0
    """Least length of a turn."""
    threads: int | None = None
    """Threads of PyTorch; default what it chooses."""
    out: Path | None = None
    """JSON file to write."""


def run(config: DiamondBenchmark, report: Callable[[str], None] = print) -> dict[str, Any]:
    """Every figure, told line by line as it is measured."""
    if config.threads:
        torch.set_num_threads(config.threads)
    world = load_world(config.world)
    theirs = _Diamond(config.checkout, world.frame_size, world.actions.n)
    data: dict[str, Any] = {
        "config": asdict(config),
        "machine": machine(),
        "parameters": {"worldloop": sum(p.numel() for p in world.parameters()), "diamond": theirs.parameters},
        "provenance": provenance(world),
        "steps_per_second": {},
    }
    for batch in config.batches:
        ours = ImaginedVectorEnv(world, batch, max_episode_steps=config.horizon)
        ours.reset(seed=0)
        other, actions = theirs.environment(batch, config.horizon), torch.randint(world.actions.n, (batch,))
        works = {"worldloop": partial(ours.step, actions.numpy()), "diamond": partial(other.step, actions)}
        seconds = take_turns(works, config.repeats, config.seconds)
        row = {name: spread([batch / s for s in taken]) for name, taken in seconds.items()}
        row["ratio"] = ratios(seconds["diamond"], seconds["worldloop"])
        data["steps_per_second"][str(batch)] = row
        report(
            f"B={batch}: worldloop {row['worldloop']['median']:.1f} steps/s, DIAMOND {row['diamond']['median']:.2f}, "
            f"ratio {row['ratio']['median']:.1f} [{row['ratio']['low']:.1f}, {row['ratio']['high']:.1f}]"
        )
    data = jsonable(data)
    if config.out is not None:
        write_json(config.out, data)
    return data


class _Diamond:
    """DIAMOND's modules at the sizes of its ``config/agent/default.yaml``.

    Args:
        checkout: its repository.
        frame_size: height and width, multiples of 8.
        actions: how many there are.

    Raises:
        ConfigError: no such repository there.
    """

    def __init__(self, checkout: Path, frame_size: tuple[int, int], actions: int) -> None:
        source = checkout / "src"
        if not (source / "envs" / "world_model_env.py").is_file():
            raise ConfigError(f"{checkout} is no checkout of DIAMOND: it has no src/envs/world_model_env.py.")
        for name in _UNUSED:
            sys.modules.setdefault(name, MagicMock())
        # Its package of environments imports Atari's; only the imagined one is needed.
        package = ModuleType("envs")
        package.__path__ = [str(source / "envs")]
        sys.modules["envs"] = package
        sys.path.insert(0, str(source))
        self._env = importlib.import_module("envs.world_model_env")
        self._batch = importlib.import_module("data.batch").Batch
        models, rewards = importlib.import_module("models.diffusion"), importlib.import_module("models.rew_end_model")
        inner = models.InnerModelConfig(3, 4, 256, [2] * 4, [64] * 4, [0] * 4, actions)
        self._denoiser = models.Denoiser(models.DenoiserConfig(inner, 0.5, 0.3)).eval()
        self._sampler = models.DiffusionSamplerConfig(3)
        self._size, self._actions = frame_size, actions
        height, width = frame_size
        ends = rewards.RewEndModel(
            rewards.RewEndModelConfig(512, 3, height, 128, [2] * 4, [32] * 4, [0] * 4, actions)
        ).eval()
        # It expects square frames: its recurrent layer must take as many numbers as these have.
        # Untrained, it would end every other episode at once, and resets cost it time.
        ends.head = torch.nn.Sequential(ends.head, _GoesOn())
        ends.lstm = torch.nn.LSTM(32 * (height // 8) * (width // 8), 512, batch_first=True)
        self._ends = ends
        self.parameters = sum(p.numel() for m in (self._denoiser, ends) for p in m.parameters())

    def environment(self, batch: int, horizon: int) -> Any:
        """Its environment of ``batch`` worlds, begun."""
        config = self._env.WorldModelEnvConfig(horizon, 1, self._sampler)
        env = self._env.WorldModelEnv(self._denoiser, self._ends, _Starts(self, batch), config)
        env.reset()
        return env

    def starts(self, batch: int) -> Any:
        """Random recorded starts of four frames."""
        shape, row = (batch, 4, 3, *self._size), torch.zeros(batch, 4)
        acts = torch.randint(self._actions, (batch, 4))
        return self._batch(torch.rand(shape) * 2 - 1, acts, row, row.long(), row.long(), row == 0, [], [])


class _GoesOn(torch.nn.Module):
    """Makes the logits of three rewards and of "goes on, ends" say that the episode goes on."""

    def forward(self, logits: torch.Tensor) -> torch.Tensor:
        return logits + logits.new_tensor([0, 0, 0, 20, 0])


class _Starts:
    """What DIAMOND takes from its data loader."""

    def __init__(self, diamond: _Diamond, batch: int) -> None:
        self._diamond, self.batch_sampler = diamond, self
        self.batch_size = batch

    def __iter__(self) -> Iterator[Any]:
        while True:
            yield self._diamond.starts(self.batch_size)


if __name__ == "__main__":
    run(tyro.cli(DiamondBenchmark))
