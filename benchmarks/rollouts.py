"""How fast real experience is recorded and read.

Run it on an idle machine; 320 maps are the 80 000 frames of the stated target::

    python -m worldloop.benchmarks.rollouts --maps 320 --out rollouts.json

It records a data set of its own in a temporary directory, or reads the one given by ``--data``. Windows
are read with a warm file cache; times are medians, with the slowest of a hundred beside them.
"""

from __future__ import annotations

import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import tyro

from ..envs.collecting import CollectConfig, collect
from ..files import write_json
from ..rollouts.cache import TrainingCache
from ..rollouts.store import RolloutDataset, open_dataset
from ..rollouts.windows import WindowSampler, WindowSource

T = TypeVar("T")


@dataclass(frozen=True)
class RolloutsBenchmark:
    """Measure recording and reading."""

    maps: int = 320
    """Maps to record, 250 frames each."""
    data: Path | None = None
    """Read this data set instead of recording one."""
    workers: int | None = None
    """Engines side by side; default one per processor core."""
    length: int = 20
    """Frames in a window."""
    windows: int = 500
    """Windows to time."""
    out: Path | None = None
    """JSON file to write."""


def record(config: RolloutsBenchmark, directory: Path) -> tuple[RolloutDataset, dict[str, Any]]:
    """Record a data set, then let the same command find that nothing is left to do."""
    collection = CollectConfig(out=directory, maps=config.maps, workers=config.workers)
    seconds, dataset = _timed(lambda: collect(collection))
    again, _ = _timed(lambda: collect(collection))
    return dataset, {
        "seconds": round(seconds, 2),
        "frames_per_second": round(dataset.num_frames / seconds),
        "seconds_to_verify_a_finished_recording": round(again, 2),
    }


def read(dataset: RolloutDataset, config: RolloutsBenchmark, directory: Path) -> dict[str, Any]:
    """Random windows from the HDF5 files and from the training cache."""
    opening, _ = _timed(lambda: open_dataset(dataset.path, purpose="report"))
    building, cache = _timed(lambda: TrainingCache.build(dataset, directory))
    return {
        "seconds_to_open": round(opening, 3),
        "cache_frames_per_second": round(dataset.num_frames / building),
        "hdf5_window_ms": _window_ms(dataset, config, batch_size=1),
        "cache_window_ms": _window_ms(cache, config, batch_size=1),
        "cache_batch_of_64_ms": _window_ms(cache, config, batch_size=64),
    }


def main(config: RolloutsBenchmark) -> dict[str, Any]:
    """Run the benchmark; print and return its figures."""
    with tempfile.TemporaryDirectory() as temporary:
        result: dict[str, Any] = {"cores": os.cpu_count(), "platform": platform.platform()}
        if config.data is None:
            dataset, result["record"] = record(config, Path(temporary) / "data")
        else:
            dataset = open_dataset(config.data, purpose="report")
        result |= {"frames": dataset.num_frames, "frame_size": dataset.frame_size}
        files = [path.stat().st_size for path in dataset.path.glob("*.h5")]
        result["bytes_per_frame"] = round(sum(files) / dataset.num_frames)
        result["read"] = read(dataset, config, Path(temporary) / "cache")
    print(json.dumps(result, indent=2))
    if config.out is not None:
        write_json(config.out, result)
    return result


def _window_ms(source: WindowSource, config: RolloutsBenchmark, batch_size: int) -> dict[str, float]:
    sampler = WindowSampler(source, config.length, seed=0)
    for step in range(10):
        sampler.batch(step, batch_size)
    steps = range(10, 10 + max(config.windows // batch_size, 20))
    times = [_timed(partial(sampler.batch, step, batch_size))[0] * 1e3 for step in steps]
    return {"median": round(float(np.median(times)), 4), "p99": round(float(np.percentile(times, 99)), 4)}


def _timed(function: Callable[[], T]) -> tuple[float, T]:
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


if __name__ == "__main__":
    main(tyro.cli(RolloutsBenchmark))
