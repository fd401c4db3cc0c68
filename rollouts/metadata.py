"""What a data set says about itself, and where it came from."""

from __future__ import annotations

import hashlib
import json
import platform
import shlex
import sys
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, cast

from ..errors import DataError
from ..world_models.actions import ActionSpec
from .hdf5 import FORMAT
from .splits import Split, seed_range

_WORLDS = ("vizdoom", "miniworld", "minedojo")
_PACKAGES = ("worldloop", *_WORLDS, "gymnasium", "numpy", "h5py", "torch", "stable-baselines3")


@dataclass(frozen=True)
class Provenance:
    """How a data set came to be.

    Attributes:
        command: the command line that recorded it.
        created: date and time, ISO 8601, UTC.
        versions: Python and the packages that had a part in it.
    """

    command: str
    created: str
    versions: dict[str, str]

    @classmethod
    def here_and_now(cls) -> Provenance:
        """The provenance of something this process records now."""
        versions = {"python": platform.python_version()}
        for package in _PACKAGES:
            try:
                versions[package] = version(package)
            except PackageNotFoundError:
                continue
        command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
        return cls(command, datetime.now(UTC).isoformat(timespec="seconds"), versions)


@dataclass(frozen=True)
class DatasetInfo:
    """What ``dataset.json`` holds.

    Attributes:
        env_id: Gymnasium id of the recorded environment.
        env_kwargs: the arguments it was made with; JSON values only.
        frame_size: height and width of a frame, in pixels.
        action_spec: the action space, as data.
        split: the split that every map belongs to.
        generator: version of the environment's map generator, empty where there is none.
        recipe: every setting that decides what the episodes contain; empty for data recorded by hand.
        maps: how many maps the complete data set holds; None where nobody planned a number.
        provenance: command, date and versions of the first recording.
    """

    env_id: str
    env_kwargs: dict[str, Any]
    frame_size: tuple[int, int]
    action_spec: ActionSpec
    split: Split
    generator: str = ""
    recipe: dict[str, Any] = field(default_factory=dict)
    maps: int | None = None
    provenance: Provenance = field(default_factory=Provenance.here_and_now)

    def __post_init__(self) -> None:
        seed_range(self.split)
        # 0 and 0.0 are equal but not the same JSON.
        object.__setattr__(self, "action_spec", ActionSpec.from_json(self.action_spec.to_json()))

    @property
    def content(self) -> dict[str, Any]:
        """Everything that decides what the episodes contain, as plain data; not how many there are."""
        content = {
            "env_id": self.env_id,
            "env_kwargs": self.env_kwargs,
            "frame_size": self.frame_size,
            "action_spec": self.action_spec.to_json(),
            "split": self.split,
            "generator": self.generator,
            "recipe": self.recipe,
        }
        # JSON knows no tuples: comparable with what was read back only after the same round trip.
        return cast(dict[str, Any], json.loads(json.dumps(content)))

    @property
    def identity(self) -> str:
        """A hash of `content`: files of different identities never belong to one data set."""
        return hashlib.sha256(json.dumps(self.content, sort_keys=True).encode()).hexdigest()[:16]

    def to_json(self) -> str:
        """The text of ``dataset.json``."""
        data = {"format": FORMAT, **self.content, "maps": self.maps, "provenance": asdict(self.provenance)}
        return json.dumps(data, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> DatasetInfo:
        """The inverse of `to_json`.

        Raises:
            DataError: another format version, or not such a text at all.
        """
        try:
            data = json.loads(text)
            found = data["format"]
            if found == FORMAT:
                return cls(
                    env_id=data["env_id"],
                    env_kwargs=data["env_kwargs"],
                    frame_size=(int(data["frame_size"][0]), int(data["frame_size"][1])),
                    action_spec=ActionSpec.from_json(data["action_spec"]),
                    split=data["split"],
                    generator=data["generator"],
                    recipe=data["recipe"],
                    maps=data["maps"],
                    provenance=Provenance(**data["provenance"]),
                )
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise DataError(f"This is no description of a data set ({error!r}).") from error
        raise DataError(f"The data set is of format {found!r}; this version of worldloop reads {FORMAT!r}.")
