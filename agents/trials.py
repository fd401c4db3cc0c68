"""`RealTrials`: every so often in its training, an agent plays a few episodes of the real world."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import gymnasium as gym
import numpy as np

from ..errors import ConfigError
from ..files import write_json

MakeEnv = Callable[[], gym.Env[Any, Any]]
"""Makes a real environment, whose ``info`` holds ``pose`` and ``success``."""


class Actor(Protocol):
    """Acts in B real worlds, as Stable-Baselines3's models do. `Agent` is one, and so is `planning.MPC`."""

    def predict(
        self, observation: Mapping[str, Any], state: Any = None, episode_start: Any = None, deterministic: bool = True
    ) -> tuple[Any, Any]:
        """Actions (B, ...) on ``"frame"`` (B, H, W, 3) and ``"pose"`` (B, 5), and what is remembered."""


@runtime_checkable
class Narrows(Protocol):
    """An actor that can go on with fewer worlds than it began with."""

    def keep(self, state: Any, rows: Any) -> Any:
        """What is remembered of worlds ``rows`` (M,) alone, of what the last call of ``predict`` returned."""


@dataclass(frozen=True)
class TrialsConfig:
    """How often, and how long, an agent is tried in the real world while it learns."""

    every: int = 0
    """Training steps between trials, counted as the training counts them; 0 for none."""
    episodes: int = 20
    """Of each trial; the same maps, starts and goals every time, on validation maps."""
    envs: int = 4
    """Real environments side by side."""
    enough: float | None = None
    """End the training once this share of a trial's episodes is solved."""
    deterministic: bool = False
    """Take the likeliest action instead of a drawn one."""

    def __post_init__(self) -> None:
        if self.every < 0 or min(self.episodes, self.envs) < 1:
            raise ConfigError(f"Trials need episodes and envs of at least 1, and every from 0 on; got {self}.")
        if self.enough is not None and not 0 < self.enough <= 1:
            raise ConfigError(f"enough is a share of episodes, above 0 and up to 1; got {self.enough}.")


@dataclass(frozen=True)
class Trial:
    """What an agent achieved.

    Attributes:
        step: of the training.
        success: share of episodes solved.
        reward: mean undiscounted return.
        length: mean steps of an episode.
        played: real steps of the whole trial.
    """

    step: int
    success: float
    reward: float
    length: float
    played: int

    def scalars(self) -> dict[str, float]:
        """What belongs on a curve."""
        return {"success": self.success, "return": self.reward, "length": self.length}


class RealTrials:
    """Trials of one training. What they find is in ``trials.json``, and the best agent so far in ``best``.

    Environments live for one trial only. Nothing is drawn from global generators, so that trials change no training.

    Args:
        make_env: makes a real environment.
        config: how often, how long.
        out: directory of the training; None to keep nothing.
        seed: of maps, starts and goals.

    Attributes:
        trials: all so far, in order.
    """

    def __init__(self, make_env: MakeEnv, config: TrialsConfig, out: Path | None = None, seed: int = 0) -> None:
        self.config, self._make_env, self._out, self._seed = config, make_env, out, seed
        self.trials: list[Trial] = []
        if out is not None and (out / "trials.json").exists():
            self.trials = [Trial(**row) for row in json.loads((out / "trials.json").read_text())]

    @property
    def real_steps(self) -> int:
        """Steps that trials have taken in the real world."""
        return sum(trial.played for trial in self.trials)

    def due(self, before: int, step: int) -> bool:
        """Whether there is a trial between training steps ``before`` and ``step``."""
        every = self.config.every
        return every > 0 and before // every < step // every

    def run(self, actor: Actor, step: int, keep: Callable[[Path], object]) -> Trial:
        """Try ``actor`` at training step ``step``; the best so far is kept.

        Args:
            actor: who plays.
            step: of the training; trials of this and later steps, from before an interruption, are replaced.
            keep: writes the agent into a directory.
        """
        config = self.config
        with ExitStack() as stack:
            envs = [stack.enter_context(closing(self._make_env())) for _ in range(min(config.envs, config.episodes))]
            seeds = [
                int(np.random.default_rng([self._seed, number]).integers(2**31)) for number in range(config.episodes)
            ]
            played = _play(actor, envs, seeds, config.deterministic)
        wins, earned, steps = (np.array(column) for column in zip(*played, strict=True))
        trial = Trial(step, float(wins.mean()), float(earned.mean()), float(steps.mean()), int(steps.sum()))
        before = [other for other in self.trials if other.step < step]
        self.trials = [*before, trial]
        if self._out is not None:
            if all((trial.success, trial.reward) > (other.success, other.reward) for other in before):
                keep(self._out / "best")
            write_json(self._out / "trials.json", [asdict(one) for one in self.trials])
        return trial

    def enough(self, trial: Trial) -> bool:
        """Whether the training may end."""
        return self.config.enough is not None and trial.success >= self.config.enough


def _play(
    actor: Actor, envs: Sequence[gym.Env[Any, Any]], seeds: Sequence[int], deterministic: bool
) -> list[tuple[bool, float, int]]:
    """Success, return and steps of one episode from each seed, side by side in groups."""
    results: list[tuple[bool, float, int]] = []
    for first in range(0, len(seeds), len(envs)):
        group = list(zip(envs, seeds[first : first + len(envs)], strict=False))
        begun = [env.reset(seed=seed) for env, seed in group]
        frames, poses = [frame for frame, _ in begun], [info["pose"] for _, info in begun]
        ended: list[tuple[bool, float, int] | None] = [None] * len(group)
        earned, steps, state = [0.0] * len(group), 0, None
        while None in ended:
            observation = {"frame": np.stack(frames), "pose": np.stack(poses)}
            actions, state = actor.predict(observation, state, deterministic=deterministic)
            steps += 1
            for slot, (env, _) in enumerate(group):
                if ended[slot] is None:
                    frames[slot], reward, terminated, truncated, info = env.step(actions[slot])
                    poses[slot] = info["pose"]
                    earned[slot] += float(reward)
                    if terminated or truncated:
                        ended[slot] = bool(info["success"]), earned[slot], steps
        results += [one for one in ended if one is not None]
    return results
