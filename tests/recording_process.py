"""A recording in a process of its own, to be interrupted and killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
from patience import wait_until

from worldloop.envs.collecting import CollectConfig

needs_proc = pytest.mark.skipif(
    not Path("/proc/self/environ").exists(), reason="looks for processes in /proc"
)

_SCRIPT = """
import json, sys
from pathlib import Path
import pytest

from worldloop.envs.collecting import CollectConfig, collect
if __name__ == "__main__":
    fields = json.loads(sys.argv[1])
    collect(CollectConfig(**fields | {"out": Path(fields["out"])}))
"""


class Recording:
    """A `collect` in a process of its own, whose descendants can be recognised."""

    def __init__(self, directory: Path, config: CollectConfig) -> None:
        script = directory / "record.py"
        script.write_text(_SCRIPT)
        self.config, self.mark = config, f"RECORDING={uuid.uuid4()}"
        key, value = self.mark.split("=")
        self.process = subprocess.Popen(
            [sys.executable, str(script), json.dumps(vars(config) | {"out": str(config.out)})],
            env=os.environ | {key: value, "PYTHONPATH": str(Path(__file__).parent)},
            start_new_session=True,
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait_for_maps(self, n: int) -> None:
        wait_until(lambda: len(list(self.config.out.glob("map-*.h5"))) >= n, self.process)

    def living(self) -> list[int]:
        """Every process that descends from this one."""
        found = []
        for environment in Path("/proc").glob("[0-9]*/environ"):
            try:
                if self.mark.encode() in environment.read_bytes().split(b"\0"):
                    found.append(int(environment.parent.name))
            except OSError:
                continue
        return found

    def assert_all_gone(self) -> None:
        wait_until(lambda: not self.living())

    def end(self) -> None:
        """Make sure that nothing is left."""
        self.process.kill()
        self.process.wait()
        assert self.process.stderr is not None
        self.process.stderr.close()
