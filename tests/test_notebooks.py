"""The notebooks run from top to bottom."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
import torch
from nbclient import NotebookClient
from patience import PATIENCE

from worldloop.envs.doom_rooms.env import DoomRoomsEnv
from worldloop.world_models.config import preset
from worldloop.world_models.pretrained import bundled_worlds
from worldloop.world_models.storage import save_world
from worldloop.world_models.world_model import WorldModel

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"


@pytest.fixture
def world(tmp_path: Path) -> str:
    """The bundled world, or an untrained one where none is bundled: a notebook must run with either."""
    if "doom-rooms-tiny" in bundled_worlds():
        return "doom-rooms-tiny"
    torch.manual_seed(0)
    save_world(WorldModel(preset("tiny", DoomRoomsEnv().action_spec)), tmp_path / "untrained", {})
    return str(tmp_path / "untrained")


def test_imagined_vs_real_runs(world: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLDLOOP_NOTEBOOK_WORLD", world)
    monkeypatch.setenv("WORLDLOOP_NOTEBOOK_MAPS", "3")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    notebook = nbformat.read(NOTEBOOKS / "01_imagined_vs_real.ipynb", as_version=4)
    client = NotebookClient(notebook, timeout=int(PATIENCE), resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    pictures = [
        o for cell in notebook.cells for o in cell.get("outputs", []) if "image/png" in o.get("data", {})
    ]
    assert len(pictures) == 5
