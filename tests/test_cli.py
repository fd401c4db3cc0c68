"""The command line: what goes wrong is one sentence that says what to do, and loses nothing."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from patience import PATIENCE, wait_until
from test_training import record

from worldloop import cli
from worldloop.envs.doom_rooms.env import DoomRoomsEnv
from worldloop.envs.imagined import ImaginedEnv
from worldloop.errors import ConfigError
from worldloop.rollouts.store import open_dataset
from worldloop.world_models.config import preset
from worldloop.world_models.storage import save_world
from worldloop.world_models.world_model import WorldModel

TRAIN = ("--autoencoder.steps", "3", "--autoencoder.batch-size", "2", "--heads.steps", "3",
         "--heads.batch-size", "2", "--dynamics.steps", "3", "--dynamics.batch-size", "2",
         "--state.steps", "3", "--state.batch-size", "2", "--checkpoint-every", "1")  # fmt: skip
Run = Callable[..., tuple[int, str]]
ROOT = Path(cli.__file__).parent.parent


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command here; gives its exit status and what it wrote to stderr."""

    def command(*words: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["worldloop", *map(str, words)])
        capsys.readouterr()
        try:
            cli.main()
            status = 0
        except SystemExit as end:
            status = int(end.code or 0)
        return status, capsys.readouterr().err

    return command


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    record(root / "train", "train", range(3))
    record(root / "validation", "validation", range(100_000, 100_002))
    record(root / "test", "test", range(200_000, 200_002))
    return root


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("world")
    torch.manual_seed(0)
    save_world(WorldModel(preset("tiny", DoomRoomsEnv().action_spec)), path, {})
    return path


def assert_refused(result: tuple[int, str], *patterns: str) -> None:
    """One sentence, or two, that names what is wrong; no traceback; status 1."""
    status, told = result
    lines = [line for line in told.splitlines() if not re.match(r"[a-z ]+: \d+/\d+ after", line)]
    assert status == 1, told
    assert len(lines) == 1 and lines[0].startswith("error: ") and lines[0].endswith("."), told
    assert all(re.search(pattern, lines[0]) for pattern in patterns), lines[0]


def test_errors_and_warnings_are_told_word_for_word_and_a_warning_without_a_place(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = str(ROOT / ".venv" / "lib" / "site-packages" / "their.py")

    def doctor(verb: object) -> None:
        warnings.warn_explicit("Nothing in [bold] was paid.", UserWarning, cli.__file__, 7)
        warnings.warn_explicit("Of somebody else.", UserWarning, theirs, 7)
        raise ConfigError("There is no [task].")

    shown = warnings.showwarning
    monkeypatch.setattr(cli, "do_doctor", doctor)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = lambda *words: print(f"{words[2]}:{words[3]}: {words[0]}", file=sys.stderr)
        status, told = run("doctor")
    assert status == 1 and told.splitlines() == [
        "warning: Nothing in [bold] was paid.",
        f"{theirs}:7: Of somebody else.",
        "error: There is no [task].",
    ]
    assert warnings.showwarning is shown


def test_worlds_that_are_not_there_or_damaged(run: Run, world: Path, tmp_path: Path) -> None:
    for verb in ("compare", "plan", "demo", "imagine"):
        result = run(verb, "--world", "doom-rooms-huge", "--out", tmp_path / "out")
        assert_refused(result, "Unknown world 'doom-rooms-huge'", "directory")
    assert_refused(run("compare", "--world", tmp_path, "--out", tmp_path / "out"), r"no world\.json")
    cut = shutil.copytree(world, tmp_path / "cut")
    os.truncate(cut / "weights.safetensors", 5000)
    assert_refused(run("imagine", "--world", cut, "--out", tmp_path / "out"), "damaged or cut short", "again")
    (cut / "weights.safetensors").unlink()
    assert_refused(run("imagine", "--world", cut, "--out", tmp_path / "out"), "missing", "copy the whole directory")
    odd = shutil.copytree(world, tmp_path / "odd")
    (odd / "world.json").write_text('{"format": ')
    assert_refused(run("compare", "--world", odd, "--out", tmp_path / "out"), r"world\.json cannot be read")
    (odd / "world.json").write_text('{"format": "worldloop.world/0"}')
    assert_refused(run("compare", "--world", odd, "--out", tmp_path / "out"), r"has format 'worldloop\.world/0'")
    assert_refused(run("imagine", "--world", world, "--out", tmp_path / "out"), "no file of recorded contexts")
    assert not (tmp_path / "out").exists()


def test_data_that_is_not_there_damaged_or_not_allowed(run: Run, data: Path, tmp_path: Path) -> None:
    def train(where: Path, *more: object) -> tuple[int, str]:
        return run("train", "--data", where, "--out", tmp_path / "run", *TRAIN, *more)

    assert_refused(train(tmp_path / "nowhere"), "worldloop collect")
    for split in ("validation", "test"):
        assert_refused(train(data / split), f"{split} split", "train")
    assert_refused(train(data / "train", "--validation", data / "test"), "test split", "validation")
    assert_refused(train(data / "train", "--validation", data / "train"), "train split")
    damaged = shutil.copytree(data / "train", tmp_path / "damaged")
    file = sorted(damaged.glob("*.h5"))[1]
    os.truncate(file, 900)
    assert_refused(train(damaged), file.name)
    if not torch.cuda.is_available():
        assert_refused(train(data / "train", "--device", "cuda"), "no CUDA device", "--device cpu")


def test_frames_that_do_not_fit(run: Run, data: Path, world: Path, tmp_path: Path) -> None:
    out = tmp_path / "rooms"
    assert_refused(run("collect", "--out", out, "--maps", "0"), "at least one map")
    collect = ("collect", "--out", out, "--maps", 1, "--steps", 12, "--workers", 1)
    status, told = run(*collect, "--env-kwargs", "frame_size=[44,60]")
    assert status == 0, told
    assert_refused(run(*collect, "--env-kwargs", "frame_size=[48,64]"), "44", "48")
    assert_refused(run("train", "--data", out, "--out", tmp_path / "run", *TRAIN), "44", "multiple of 8")


def test_a_run_of_another_configuration_is_left_alone(run: Run, data: Path, tmp_path: Path) -> None:
    words = ("train", "--data", data / "train", "--out", tmp_path, *TRAIN, "--stop-after", 2)
    assert run(*words)[0] == 0
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.*")}
    assert_refused(run(*words, "--seed", 1), "another configuration", "--out")
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.*")} == before
    os.truncate(tmp_path / "autoencoder.safetensors", 4000)
    assert_refused(run(*words), r"autoencoder\.safetensors is damaged", "delete it")


def test_training_writes_a_world_that_can_be_imagined_by_name(run: Run, data: Path, tmp_path: Path) -> None:
    status, told = run("train", "--data", data / "train", "--out", tmp_path / "run", *TRAIN)
    assert status == 0, told
    world = tmp_path / "run" / "world"
    status, told = run("imagine", "--world", world, "--steps", 4, "--out", tmp_path / "film", "--actions", "turn*3")
    assert status == 0, told
    assert {p.name for p in (tmp_path / "film").iterdir()} == {"imagine.json", "imagined.gif", "imagined.mp4"}
    assert_refused(run("imagine", "--world", world, "--out", tmp_path / "x", "--actions", "fly"), "'fly'", "stay, turn")
    env = ImaginedEnv(world)
    env.reset(seed=0)
    for action in (2, -1, 0.5, [0, 1]):
        with pytest.raises(ValueError, match=r"[Aa]ction.*\.$"):
            env.step(action)


def test_measuring_prints_figures_with_intervals(run: Run, world: Path, tmp_path: Path) -> None:
    small = ("--world", world, "--context", 4, "--horizon", 2, "--pictures", 0)
    status, told = run("compare", *small, "--maps", 2, "--out", tmp_path / "compare")
    assert status == 0 and (tmp_path / "compare" / "compare.json").exists(), told
    few = ("--episodes", 2, "--candidates", 4, "--iterations", 1, "--elites", 2, "--budget", 2, "--random-repeats", 1)
    status, told = run("plan", *small, *few, "--batch", 2, "--out", tmp_path / "plan")
    assert status == 0 and (tmp_path / "plan" / "plan.json").exists(), told
    worlds = ("--worlds", f"mine={world}", f"forgetful={world}@none")
    one = ("--maps", 1, "--radii", 5, "--types", "ABA", "--poses", "true", "--pictures", 0)
    status, told = run("evaluate", "return", *worlds, *one, "--out", tmp_path / "return")
    assert status == 0 and (tmp_path / "return" / "return.json").exists(), told
    assert_refused(run("evaluate", "return", "--worlds", world, world), "need different names")
    assert_refused(run("evaluate", "return", "--worlds", f"a={world}@magic"), "Unknown retrieval 'magic'")
    assert_refused(run("evaluate", "return", "--worlds", f"a={world}@packing=magic"), "Unknown packing 'magic'")
    assert_refused(run("evaluate", "return", "--worlds", f"a={world}@capacity=3"), "not 'capacity'")
    assert_refused(run("evaluate", "sensitivity", "--world", world), "this one does not")
    assert_refused(run("evaluate", "retention", "--worlds", world, "--away", 0), "away")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of three megabytes."""
    path = tmp_path / "disk"
    path.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(path)], capture_output=True
    )
    if not mounted or mounted.returncode:
        pytest.skip("only root can make a small disk")
    yield path
    subprocess.run(["umount", str(path)], check=True)


def test_a_full_disk_loses_nothing(run: Run, data: Path, small_disk: Path) -> None:
    train = ("train", "--data", data / "train", "--out", small_disk / "run", *TRAIN)
    assert_refused(run(*train), "disk is full", "Free space and run again")
    shutil.rmtree(small_disk / "run")
    collect = ("collect", "--out", small_disk / "data", "--maps", 6, "--steps", 250, "--workers", 1)
    assert_refused(run(*collect), "disk is full", "Free space and run again")
    kept = {path.name: path.read_bytes() for path in (small_disk / "data").glob("map-*.h5")}
    assert kept
    subprocess.run(["mount", "-o", "remount,size=200m", str(small_disk)], check=True)
    assert run(*collect)[0] == 0
    assert {name: (small_disk / "data" / name).read_bytes() for name in kept} == kept
    assert open_dataset(small_disk / "data").num_frames >= 6 * 249
    assert (result := run(*train))[0] == 0, result[1]


@pytest.mark.parametrize("verb", ["collect", "train"])
def test_ctrl_c_keeps_what_is_done_and_the_same_command_goes_on(
    run: Run, data: Path, tmp_path: Path, verb: str
) -> None:
    words = {
        "collect": ("collect", "--out", tmp_path, "--maps", 12, "--steps", 250, "--workers", 1),
        "train": ("train", "--data", data / "train", "--out", tmp_path, *TRAIN, "--autoencoder.steps", 5000),
    }[verb]
    sign = {"collect": "map-*.h5", "train": "autoencoder.safetensors"}[verb]
    with subprocess.Popen(
        [sys.executable, "-m", "worldloop.cli", *map(str, words)], stderr=subprocess.PIPE, text=True
    ) as process:
        wait_until(lambda: list(tmp_path.glob(sign)), process)
        process.send_signal(signal.SIGINT)
        told = process.communicate(timeout=PATIENCE)[1]
    assert process.returncode == 130
    assert told.splitlines()[-1].startswith("Stopped.") and "Traceback" not in told
    kept = {path: path.read_bytes() for path in tmp_path.glob(sign)}
    if verb == "collect":
        status, told = run(*words)
        assert status == 0, told
        assert all(path.read_bytes() == content for path, content in kept.items())
        assert len(kept) < len(np.unique(open_dataset(tmp_path).map_seeds)) == 12
    else:
        assert run(*words, "--stop-after", 1)[0] == 0, "the checkpoint is whole, and already further"
