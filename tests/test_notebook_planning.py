"""The notebook on planning runs from top to bottom."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from test_notebooks import NOTEBOOKS, world

__all__ = ["world"]


def test_planning_runs(world: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLDLOOP_NOTEBOOK_WORLD", world)
    monkeypatch.setenv("WORLDLOOP_NOTEBOOK_BUDGET", "2")
    notebook = nbformat.read(NOTEBOOKS / "02_planning.ipynb", as_version=4)
    client = NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    pictures = [o for cell in notebook.cells for o in cell.get("outputs", []) if "image/png" in o.get("data", {})]
    assert len(pictures) == 5
