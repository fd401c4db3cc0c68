"""Every vector environment of the project keeps Gymnasium's promises, in every autoreset mode."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any

import gymnasium as gym
import pytest
from conformance import CHECKS, MODES, Subject
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from toy_world import AXES, KEYS, ToyArena, ToyWorld, toy_contexts

from worldloop.envs.doom_rooms.env import DoomRoomsEnv
from worldloop.envs.imagined import ImaginedEnv
from worldloop.envs.imagined_vector import ImaginedVectorEnv
from worldloop.world_models.actions import ActionSpec

LIMIT = 5


def _toy(spec: ActionSpec, **kwargs: Any) -> dict[str, Any]:
    """Arguments of an imagined environment whose random walks end in the goal now and then."""
    arena = ToyArena(actions=spec, size=200.0, goal=(140.0, 140.0), goal_radius=40.0)
    given = {"max_episode_steps": LIMIT, "render_mode": "rgb_array"} | kwargs
    return {"world": ToyWorld(arena, noise=4.0), "contexts": toy_contexts(arena), **given}


def imagined(name: str, spec: ActionSpec, **kwargs: Any) -> Subject:
    def vector(mode: AutoresetMode) -> VectorEnv[Any, Any, Any]:
        return ImaginedVectorEnv(num_envs=3, autoreset_mode=mode, **_toy(spec, **kwargs))

    return Subject(f"Imagined-{name}", vector, lambda: ImaginedEnv(**_toy(spec, **kwargs)))


def in_turn(name: str, alone: Callable[[], gym.Env[Any, Any]], n: int = 3) -> Subject:
    """Gymnasium's `SyncVectorEnv` of scalar environments."""
    return Subject(f"Sync-{name}", lambda mode: SyncVectorEnv([alone] * n, autoreset_mode=mode), alone)


doom_rooms = partial(DoomRoomsEnv, task="find", actions="continuous", max_steps=LIMIT, render_mode="rgb_array")

SUBJECTS = (
    imagined("keys-frame", KEYS),
    imagined("axes-latent", AXES, observation="latent", retrieved=True, max_uncertainty=8.0),
    imagined("keys-dict", KEYS, observation=("latent", "pose")),
    in_turn("ImaginedEnv-keys", lambda: ImaginedEnv(**_toy(KEYS))),
    in_turn("ImaginedEnv-axes", lambda: ImaginedEnv(**_toy(AXES, observation="latent"))),
    in_turn("DoomRooms-axes", doom_rooms, 2),
)

KNOWN: dict[tuple[str, str], str] = {
    ("Sync", "a_batch_of_another_size_is_refused_and_nothing_moves"): "Gymnasium steps the first worlds, then counts",
}
"""Why a kind of environment breaks a promise."""


def _cases() -> list[Any]:
    cases = []
    for subject, check in product(SUBJECTS, CHECKS):
        known = [why for (kind, name), why in KNOWN.items() if subject.name.startswith(kind) and check.__name__ == name]
        marks = [pytest.mark.xfail(strict=True, reason=why) for why in known]
        for mode in MODES.get(check, tuple(AutoresetMode)):
            # A check starts up to six engines.
            engines = subject.name.startswith("Sync-DoomRooms")
            slow = [pytest.mark.slow] if engines and mode is not AutoresetMode.NEXT_STEP else []
            name = f"{subject.name}-{mode.name}-{check.__name__}"
            cases.append(pytest.param(subject, mode, check, marks=marks + slow, id=name))
    return cases


@pytest.mark.parametrize(("subject", "mode", "check"), _cases())
def test_contract(subject: Subject, mode: AutoresetMode, check: Callable[[Subject, AutoresetMode], None]) -> None:
    check(subject, mode)
