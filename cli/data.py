"""`worldloop collect`, `gather` and `minari`: recorded experience."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro

from ..envs.collecting import CollectConfig, EnvKwargs
from ..errors import ConfigError
from .console import OUT, Bars


@dataclass(frozen=True)
class Collect(CollectConfig):
    """Record experience in a real world. The same command again completes a recording that was interrupted."""


@dataclass(frozen=True)
class Gather:
    """Put several data sets together into one to train on.

    The same command again completes one that was interrupted, a longer list extends it.
    """

    data: tuple[Path, ...]
    """Directories of the data sets: of one environment and split, and no map in two of them."""
    out: Path
    """Directory to write."""


@dataclass(frozen=True)
class MinariExport:
    """Write a data set as a new Minari data set, frames bit-exact."""

    data: Path
    """Directory of the data set."""
    id: str
    """Of the Minari data set: namespace/name-v0. It is written where Minari keeps its own."""
    author: str | None = None
    """Who recorded it, for its readers."""
    description: str | None = None
    """What it is, for its readers."""


@dataclass(frozen=True)
class MinariImport:
    """Write a Minari data set as a data set to train on. What was exported here comes back bit-exact."""

    id: str
    """Of a Minari data set on this machine."""
    out: Path
    """Directory to write."""
    env: str | None = None
    """Of data recorded elsewhere: Gymnasium id of an environment with the same actions, which says what they do."""
    env_kwargs: EnvKwargs | None = None
    """Arguments of that environment, such as `actions=continuous`."""
    map_seed: int | None = None
    """Of data recorded elsewhere whose infos do not tell: the map of all episodes."""


@dataclass(frozen=True)
class Minari:
    """Data sets to Minari and back."""

    way: (
        Annotated[MinariExport, tyro.conf.subcommand("export")]
        | Annotated[MinariImport, tyro.conf.subcommand("import")]
    )


def do_collect(config: Collect) -> None:
    """Record."""
    from ..agents.pretrained import agent_directory
    from ..envs.collecting import collect

    if config.agent is not None:
        config = replace(config, agent=agent_directory(config.agent))
    with Bars() as bars:
        dataset = collect(config, lambda p: bars("maps", p.maps_done, p.maps, f"{p.frames} frames"))
    OUT.print(f"{config.out}: {dataset.num_frames} frames in {len(dataset)} episodes, {dataset.split} split.")


def do_gather(config: Gather) -> None:
    """Put together."""
    from ..rollouts.gathering import gather
    from ..rollouts.store import open_dataset

    recordings = [open_dataset(path, purpose="report") for path in config.data]
    with Bars() as bars:
        dataset = gather(recordings, config.out, progress=lambda done, maps: bars("maps", done, maps, ""))
    OUT.print(f"{config.out}: {dataset.num_frames} frames in {len(dataset)} episodes, {dataset.split} split.")


def do_minari(verb: Minari) -> None:
    """Export or import."""
    from ..rollouts.minari import export_minari, import_minari
    from ..rollouts.store import open_dataset

    way = verb.way
    if isinstance(way, MinariExport):
        dataset = open_dataset(way.data, purpose="report")
        export_minari(dataset, way.id, author=way.author, description=way.description)
        OUT.print(f"{way.id}: {dataset.num_frames} frames in {len(dataset)} episodes.")
        return
    spec = None
    if way.env is not None:
        import gymnasium as gym

        from ..envs.explorers import action_spec

        try:
            env = gym.make(way.env, disable_env_checker=True, **(way.env_kwargs or {}))
        except (gym.error.Error, TypeError) as error:
            raise ConfigError(f"Cannot make {way.env}: {error}") from error
        try:
            spec = action_spec(env)
        finally:
            env.close()
    written = import_minari(way.id, way.out, action_spec=spec, map_seed=way.map_seed)
    OUT.print(f"The data set is in {written}.")
