"""`imagine_episode`: the film shows what the world imagines for the actions asked for."""

from __future__ import annotations

import json
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
from toy_world import AXES, KEYS, ToyEnv, ToyWorld, toy_contexts

from worldloop.errors import ConfigError
from worldloop.evaluation.imagine import ImagineConfig, imagine_episode, parse_actions


def test_named_actions_are_taken_in_order_and_written_down(tmp_path: Path) -> None:
    world = ToyWorld()
    contexts = toy_contexts(world.arena)
    name, other = KEYS.names[1], KEYS.names[2]
    config = ImagineConfig(actions=f"{name}*3, {other}", context=2)
    report = imagine_episode(world, config, tmp_path, contexts=contexts)

    real = ToyEnv(world.arena)
    real.reset(options={"pose": contexts.poses[2, -1]})
    poses = [real.step(action)[4]["pose"] for action in (1, 1, 1, 2)]
    np.testing.assert_allclose(report["poses"][1:], poses)
    assert report["actions"] == [1, 1, 1, 2] and report["start"] == 2
    assert json.loads((tmp_path / "imagine.json").read_text())["actions"] == [1, 1, 1, 2]
    assert len(iio.imread(tmp_path / "imagined.mp4", plugin="pyav")) == 5


def test_equal_seeds_give_equal_random_episodes(tmp_path: Path) -> None:
    world = ToyWorld(noise=3.0)
    runs = [
        imagine_episode(world, ImagineConfig(steps=6, seed=seed), tmp_path, contexts=toy_contexts(world.arena))
        for seed in (4, 4, 5)
    ]
    assert runs[0]["poses"] == runs[1]["poses"] != runs[2]["poses"]


def test_unknown_actions_are_named() -> None:
    with pytest.raises(ConfigError, match="'fly'"):
        parse_actions("fly", KEYS)
    with pytest.raises(ConfigError, match="discrete"):
        parse_actions("fly", AXES)
