"""The notebook on agents runs from top to bottom."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from patience import PATIENCE
from test_notebooks import NOTEBOOKS


def test_agents_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("stable_baselines3", reason="needs Stable-Baselines3: pip install stable-baselines3")
    monkeypatch.setenv("WORLDLOOP_NOTEBOOK_STEPS", "512")
    monkeypatch.setenv("WORLDLOOP_NOTEBOOK_MAPS", "1")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    notebook = nbformat.read(NOTEBOOKS / "03_agents.ipynb", as_version=4)
    client = NotebookClient(notebook, timeout=int(PATIENCE), resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    outputs = [o for cell in notebook.cells for o in cell.get("outputs", [])]
    assert sum("image/png" in o.get("data", {}) for o in outputs) == 5
    told = "".join(o.get("text", "") for o in outputs)
    assert re.search(r"^agent +found it on [01] of 1 maps", told, re.M)
    assert re.search(r"^random +found it on [01] of 1 maps", told, re.M)
