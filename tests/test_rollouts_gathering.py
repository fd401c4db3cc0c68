"""Data sets put together: every episode once, files whole, and nothing that does not belong."""

from __future__ import annotations

from pathlib import Path

import pytest
from commands import worldloop
from rollout_data import same, write_dataset

from worldloop.errors import DataError
from worldloop.rollouts.gathering import GATHERED, gather
from worldloop.rollouts.store import open_dataset


def test_a_data_set_grows_by_what_it_has_not_yet(tmp_path: Path) -> None:
    first = write_dataset(tmp_path / "a", [[5, 6], [7]])
    second = write_dataset(tmp_path / "b", [[4], [9]], first_map=2)
    into, recipe = tmp_path / "all", {"of": "both"}
    gather([open_dataset(tmp_path / "a")], into, 2, recipe)
    before = {path: path.stat().st_mtime_ns for path in into.glob("*.h5")}
    (into / "map-000001.h5").write_bytes(b"cut short")
    gather([open_dataset(tmp_path / "a")], into, 2, recipe)
    grown = gather([open_dataset(tmp_path / "b")], into, 4, recipe)
    assert all(same(a, b) for a, b in zip(grown.episodes(), [*first, *second], strict=True))
    assert (into / "map-000000.h5").stat().st_mtime_ns == before[into / "map-000000.h5"]
    write_dataset(tmp_path / "c", [[4]], first_map=9, env_kwargs={"task": "return"})
    with pytest.raises(DataError, match="env_kwargs"):
        gather([open_dataset(tmp_path / "c")], into, 5, recipe)
    assert len(open_dataset(into)) == len(first) + len(second)


def test_the_command_puts_recordings_of_different_recipes_together(tmp_path: Path) -> None:
    first = write_dataset(tmp_path / "a", [[5, 6], [7]], recipe={"policy": "mix"})
    second = write_dataset(tmp_path / "b", [[4], [9]], first_map=2, recipe={"policy": "turn"})
    third = write_dataset(tmp_path / "c", [[3]], first_map=7)
    into = tmp_path / "all"
    worldloop("gather", "--data", tmp_path / "a", tmp_path / "b", "--out", into)
    both = open_dataset(into)
    assert all(same(a, b) for a, b in zip(both.episodes(), [*first, *second], strict=True))
    assert both.info.recipe == GATHERED and both.info.maps == 4
    assert "gather" in both.info.provenance.command
    both.verify()
    worldloop("gather", "--data", tmp_path / "a", tmp_path / "b", tmp_path / "c", "--out", into)
    assert all(same(a, b) for a, b in zip(open_dataset(into).episodes(), [*first, *second, *third], strict=True))


def test_what_does_not_go_together_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    write_dataset(tmp_path / "a", [[5]])
    write_dataset(tmp_path / "again", [[6]])
    write_dataset(tmp_path / "elsewhere", [[6]], first_map=1, env_kwargs={"task": "return"})
    a = open_dataset(tmp_path / "a")
    into = tmp_path / "all"
    with pytest.raises(DataError, match=r"both hold map-000000.*--first-map"):
        gather([a, open_dataset(tmp_path / "again")], into)
    with pytest.raises(DataError, match=r"elsewhere does not go together with .*env_kwargs"):
        gather([a, open_dataset(tmp_path / "elsewhere")], into)
    with pytest.raises(DataError, match="at least one"):
        gather([], into)
    assert not into.exists()
    with pytest.raises(DataError, match="into itself"):
        gather([a], tmp_path / "a")
    gather([a], into)
    write_dataset(tmp_path / "b", [[5]], first_map=1)
    with pytest.raises(DataError, match="another data set"):
        gather([open_dataset(tmp_path / "b")], tmp_path / "again")
    with pytest.raises(DataError, match="2 maps, not 1"):
        gather([a, open_dataset(tmp_path / "b")], into)
        gather([a], into)
