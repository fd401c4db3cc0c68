"""Data sets as Minari knows them: export, and import of what was exported or recorded elsewhere.

A Minari episode of N steps has N + 1 observations and infos, and N actions, rewards and flags: row 0 of an
`Episode` is the observation before the first step. What Minari has no column for goes into ``infos``, under
the names that the environments use, and into the attributes of the episode, so that nothing is lost.
"""

from __future__ import annotations

import copy
import importlib
import shutil
import warnings
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError, DataError
from ..world_models.actions import ActionSpec
from .episode import Episode
from .metadata import DatasetInfo
from .splits import split_of
from .store import DatasetWriter, RolloutDataset

_INFO = "worldloop"
"""Where a Minari data set's metadata hold the text of ``dataset.json``."""


def export_minari(
    dataset: RolloutDataset, dataset_id: str, *, author: str | None = None, description: str | None = None
) -> Any:
    """Write ``dataset`` as a new Minari data set: HDF5, frames bit-exact, one episode in memory at a time.

    Example:
        >>> from worldloop.rollouts.store import open_dataset
        >>> exported = export_minari(open_dataset("data/train"), "doom-rooms/train-v0")     # doctest: +SKIP

    Args:
        dataset: episodes of at least two frames each.
        dataset_id: ``namespace/name-v0``; written where Minari keeps its data sets (``MINARI_DATASETS_PATH``).
        author: who recorded it, for its readers.
        description: what it is, for its readers.

    Returns:
        The ``minari.MinariDataset``.

    Raises:
        ConfigError: Minari is not installed.
        DataError: the id is malformed or taken, or an episode has no step.
    """
    short = np.flatnonzero(dataset.episode_lengths < 2)
    if len(short):
        raise DataError(f"Minari stores steps, and episode {short[0]} of {dataset.path} has a single frame.")
    minari = _minari()
    created = _create(minari, dataset, dataset_id, author, description)
    try:
        for i, episode in enumerate(dataset.episodes()):
            created.update_dataset_from_buffer([_to_buffer(minari, episode)])
            attributes = {
                "file": dataset.file_of(i).stem,
                "policy": episode.policy,
                "first_action": episode.actions[0],
                "first_reward": episode.rewards[0],
            }
            created.storage.update_episode_metadata([attributes], [i])
    except BaseException:
        shutil.rmtree(created.storage.data_path.parent)
        raise
    return minari.load_dataset(dataset_id)


def import_minari(
    source: Any,
    out: Path | str,
    *,
    action_spec: ActionSpec | None = None,
    map_seed: int | None = None,
    policy: str = "unknown",
) -> Path:
    """Write the episodes of a Minari data set as the data set ``out``, and return its path for `open_dataset`.

    What `export_minari` wrote comes back bit-exact, files and description included. A data set recorded
    elsewhere needs uint8 (H, W, 3) frames as observations and the canonical pose (5,) of every frame as
    ``infos["pose"]``; ``infos["collided"]`` and ``infos["success"]`` are taken where they exist.

    Args:
        source: id of a Minari data set on this machine, or a ``minari.MinariDataset``, filtered or not.
        out: directory to write.
        action_spec: what the actions mean; for data recorded elsewhere only.
        map_seed: the map of all episodes, for data recorded elsewhere without ``infos["map_seed"]``.
        policy: who chose the actions of data recorded elsewhere.

    Raises:
        ConfigError: Minari is not installed.
        DataError: no such data set, one that lacks what is said above, or ``out`` holds another one.
    """
    minari = _minari()
    if isinstance(source, str):
        try:
            source = minari.load_dataset(source)
        except FileNotFoundError as error:
            raise DataError(f"There is no Minari data set {source!r} on this machine.") from error
    # Minari's splits and filters may give episodes in any order; those of one file are written together.
    indices = sorted(int(i) for i in source.episode_indices)
    if not indices:
        raise DataError(f"The Minari data set {source.id!r} holds no episodes.")
    text = source.storage.metadata.get(_INFO)
    if text is None:
        return _import_foreign(source, Path(out), indices, action_spec, map_seed, policy)
    if action_spec is not None or map_seed is not None:
        raise DataError(f"{source.id!r} was exported by worldloop and says itself what its actions and maps are.")
    info = DatasetInfo.from_json(text)
    complete = len(indices) == source.storage.total_episodes
    writer = DatasetWriter.create(out, info if complete else replace(info, maps=None))
    attributes = source.storage.get_episode_metadata(indices)
    pairs = zip(source.iterate_episodes(indices), attributes, strict=True)
    for name, group in groupby(pairs, key=lambda pair: str(pair[1]["file"])):
        writer.write(name, [_from_export(recorded, known) for recorded, known in group])
    return writer.path


def _import_foreign(
    source: Any, out: Path, indices: list[int], action_spec: ActionSpec | None, map_seed: int | None, policy: str
) -> Path:
    if action_spec is None:
        raise DataError(f"{source.id!r} was not exported by worldloop: say by action_spec= what its actions mean.")
    if source.storage.jpeg_encoding:
        warnings.warn(
            f"{source.id!r} may hold its frames as JPEG, Minari's default: they are not the ones that were seen.",
            stacklevel=3,
        )
    episodes = (
        _from_foreign(recorded, f"Episode {recorded.id} of {source.id!r}", action_spec, map_seed, policy)
        for recorded in source.iterate_episodes(indices)
    )
    writer: DatasetWriter | None = None
    for i, episode in zip(indices, episodes, strict=True):
        writer = writer or DatasetWriter.create(out, _describe(source, episode, action_spec))
        writer.write(f"episode-{i:06d}", [episode])
    return out


def _describe(source: Any, episode: Episode, action_spec: ActionSpec) -> DatasetInfo:
    spec = source.env_spec
    return DatasetInfo(
        env_id=source.id if spec is None else spec.id,
        env_kwargs={} if spec is None else spec.kwargs,
        frame_size=episode.frame_size,
        action_spec=action_spec,
        split=split_of(episode.map_seed),
        recipe={"minari": source.id},
    )


def _create(
    minari: Any, dataset: RolloutDataset, dataset_id: str, author: str | None, description: str | None
) -> Any:
    """The Minari data set without episodes."""
    spec = dataset.action_spec
    n, shape = spec.n, (*dataset.frame_size, 3)
    try:
        # Minari makes the directory of a malformed id before it refuses it.
        importlib.import_module("minari.dataset.minari_dataset").parse_dataset_id(dataset_id)
        with warnings.catch_warnings():
            # One warning for each description that is not given.
            warnings.simplefilter("ignore", UserWarning)
            created = minari.create_dataset_from_buffers(
                dataset_id,
                buffer=[],
                action_space=gym.spaces.Discrete(n) if spec.kind == "discrete" else gym.spaces.Box(-1, 1, (n,)),
                observation_space=gym.spaces.Box(0, 255, shape, np.uint8),
                author=author,
                description=description,
                data_format="hdf5",
                jpeg_encoding=False,
            )
    except (ValueError, TypeError) as error:
        raise DataError(f"Minari takes no new data set {dataset_id!r} (as in 'rooms/train-v0'): {error}") from error
    known = {_INFO: dataset.info.to_json(), "env_spec": _env_spec(dataset.info)}
    created.storage.update_metadata({name: text for name, text in known.items() if text is not None})
    return created


def _env_spec(info: DatasetInfo) -> str | None:
    """The recorded environment for Minari's ``recover_environment``; None where this process does not know it."""
    try:
        spec = copy.deepcopy(gym.spec(info.env_id))
    except gym.error.Error:
        return None
    if not isinstance(spec.entry_point, str):
        return None
    spec.kwargs = info.env_kwargs
    return spec.to_json()


def _to_buffer(minari: Any, episode: Episode) -> Any:
    infos = {
        "pose": episode.poses,
        "map_seed": np.full(len(episode), episode.map_seed, np.int64),
        "collided": episode.collided,
        "success": episode.success,
    }
    return minari.data_collector.EpisodeBuffer(
        observations=episode.frames,
        actions=episode.actions[1:],
        rewards=episode.rewards[1:],
        terminations=episode.terminated[1:],
        truncations=episode.truncated[1:],
        infos=infos,
    )


def _from_export(recorded: Any, attributes: dict[str, Any]) -> Episode:
    return Episode(
        frames=recorded.observations,
        actions=_lead(recorded.actions, attributes["first_action"]),
        poses=recorded.infos["pose"],
        rewards=_lead(recorded.rewards, attributes["first_reward"]),
        # An episode of two frames or more never ends in its first.
        terminated=_lead(recorded.terminations, False),
        truncated=_lead(recorded.truncations, False),
        collided=recorded.infos["collided"],
        success=recorded.infos["success"],
        map_seed=int(recorded.infos["map_seed"][0]),
        policy=str(attributes["policy"]),
    )


def _from_foreign(
    recorded: Any, name: str, action_spec: ActionSpec, map_seed: int | None, policy: str
) -> Episode:
    frames, infos = recorded.observations, recorded.infos or {}
    if not isinstance(frames, np.ndarray) or frames.dtype != np.uint8 or frames.shape[3:] != (3,):
        found = f"{frames.dtype} {frames.shape}" if isinstance(frames, np.ndarray) else type(frames).__name__
        raise DataError(f"{name} needs uint8 frames (T, H, W, 3) as observations; got {found}.")
    t = len(frames)
    poses = np.asarray(infos.get("pose", ()), np.float64)
    if poses.shape != (t, 5):
        raise DataError(f"{name} needs infos['pose'], the canonical poses {(t, 5)} of its frames; got {poses.shape}.")
    seeds = np.asarray(infos.get("map_seed", () if map_seed is None else (map_seed,)))
    if len(np.unique(seeds)) != 1:
        raise DataError(f"{name} needs one map, as infos['map_seed'] or by map_seed=; got {len(np.unique(seeds))}.")
    actions = np.asarray(recorded.actions, np.int64 if action_spec.kind == "discrete" else np.float32)
    no_flags = np.zeros(t, np.bool_)
    return Episode(
        frames=frames,
        actions=_lead(actions, 0),
        poses=poses,
        rewards=_lead(np.asarray(recorded.rewards, np.float32), 0),
        terminated=_lead(np.asarray(recorded.terminations, np.bool_), False),
        truncated=_lead(np.asarray(recorded.truncations, np.bool_), False),
        collided=np.asarray(infos.get("collided", no_flags), np.bool_),
        success=np.asarray(infos.get("success", no_flags), np.bool_),
        map_seed=int(seeds.flat[0]),
        policy=policy,
    )


def _lead(rows: NDArray[Any], first: Any) -> NDArray[Any]:
    """``rows`` (N, ...) with ``first`` before them: (N + 1, ...)."""
    return np.concatenate([np.full((1, *rows.shape[1:]), first, rows.dtype), rows])


def _minari() -> Any:
    try:
        return importlib.import_module("minari")
    except ImportError as error:
        raise ConfigError("Minari is not installed; install it with pip install 'minari[hdf5]'.") from error
