"""Dyna: record with the agent there is, train the world on, train an agent in it, try it; from nothing, in rounds."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from ..envs.collecting import CollectProgress, collect
from ..envs.contexts import add_contexts
from ..rollouts.gathering import gather
from ..rollouts.store import open_dataset
from ..world_models.training.fit import Progress as Step
from ..world_models.training.train import train
from .dyna_config import DynaConfig
from .dyna_ledger import Ledger, Outcome
from .sb3_config import check_installed
from .train import PREPARING, train_agent

_MAY_CHANGE = ("out", "rounds", "device", "workers", "checkpoint_every")


class Tell(Protocol):
    """Told often how far a stage is."""

    def __call__(self, stage: str, done: int, total: int, note: str = "") -> None:
        """``done`` of ``total`` units of ``stage`` are finished."""


def _silent(stage: str, done: int, total: int, note: str = "") -> None:
    """The `Tell` of a caller who does not watch."""


@dataclass(frozen=True)
class Judged:
    """What came of a test in the real world.

    Attributes:
        episodes: that were played.
        figures: as plain data.
        table: for readers.
    """

    episodes: int
    figures: dict[str, Any]
    table: str


class Judge(Protocol):
    """Tries an agent in the real world; called again after an interruption it goes on."""

    @property
    def decides(self) -> dict[str, Any]:
        """All that its verdict depends on, beside the agent, as plain data."""

    def __call__(self, agent: Path, out: Path, tell: Tell) -> Judged:
        """Try the agent in a directory; files go to ``out``."""


def run(config: DynaConfig, judge: Judge, command: str = "", tell: Tell = _silent) -> Ledger:
    """Run the loop, or go on with one that was interrupted, at any moment and by anything.

    ``config.out`` receives ``run.json`` (see `Ledger`), ``report.md``, ``data`` (recordings of all rounds, growing),
    and for every round a directory with ``data`` (its own recording), ``world``, ``agent`` and ``transfer``.

    Args:
        config: the run.
        judge: tries the agent of every round.
        command: what the user typed, kept with the run.
        tell: told how far it is.

    Returns:
        What was done, stage by stage.

    Raises:
        ConfigError: ``config.out`` holds a run of another configuration; nothing was ever paid in the recordings; or
            Stable-Baselines3 is needed and not installed.
        WorldloopError: what a stage raises; the same call goes on with it.
    """
    if config.agent.method == "sb3":
        check_installed()
    decides = {name: value for name, value in asdict(config).items() if name not in _MAY_CHANGE}
    ledger = Ledger(config.out / "run.json", decides | {"transfer": judge.decides}, {"command": command})
    agent: Path | None = None
    for number in range(config.rounds):
        agent = _Round(config, number, agent, judge, command, tell, ledger).run()
    return ledger


class _Round:
    def __init__(
        self,
        config: DynaConfig,
        number: int,
        agent: Path | None,
        judge: Judge,
        command: str,
        tell: Tell,
        ledger: Ledger,
    ) -> None:
        self._config, self._number, self._agent, self._judge = config, number, agent, judge
        self._command, self._tell, self._ledger = command, tell, ledger
        self._directory = config.directory(number)

    def run(self) -> Path:
        """Every stage, one after the other; where the round's agent is."""
        for name, work in (
            ("collect", self._collect), ("world", self._world), ("agent", self._train_agent), ("transfer", self._try)
        ):  # fmt: skip
            self._ledger.do(self._number, name, work)
        return self._directory / "agent" / "agent"

    def _collect(self, tick: Callable[[], None]) -> Outcome:
        def watch(p: CollectProgress) -> None:
            self._say("collect", p.maps_done, p.maps, f"{p.frames} frames")
            tick()

        recorded = collect(self._config.recording(self._number, self._agent), watch)
        grown, recipe = self._config.maps_after(self._number), {"dyna": str(self._config.seed)}
        gather([recorded], self._config.data, grown, recipe)
        met: Counter[str] = Counter()
        solved: Counter[str] = Counter()
        for episode in recorded.episodes():
            met[episode.policy] += 1
            solved[episode.policy] += bool(episode.success[-1])
        shares = {name: {"episodes": n, "solved": solved[name]} for name, n in sorted(met.items())}
        told = f"{recorded.num_frames} frames; solved: " + ", ".join(
            f"{name} {each['solved']}/{each['episodes']}" for name, each in shares.items()
        )
        return Outcome(recorded.num_frames, {"episodes": shares}, told)

    def _world(self, tick: Callable[[], None]) -> Outcome:
        config = self._config.world(self._number)
        losses: dict[str, float] = {}

        def watch(step: Step, scores: object) -> None:
            self._watch(step, step.losses, tick)
            if step.step == step.steps:
                losses.update({f"{step.stage}/{name}": value for name, value in step.losses.items()})

        world = train(config, self._command, watch)
        assert world is not None
        add_contexts(world, config.data, seed=config.seed)
        stages = [config.heads, config.dynamics, config.state]
        if not config.start_from:
            stages.append(config.autoencoder)
        frames = open_dataset(config.data).num_frames
        steps = sum(stage.steps for stage in stages)
        return Outcome(steps, {"losses": losses, "frames": frames}, f"on {frames} frames")

    def _train_agent(self, tick: Callable[[], None]) -> Outcome:
        config, how = self._config.learning(self._number), self._config.agent
        last: dict[str, float] = {}
        marks: list[tuple[int, float]] = []

        def watch(step: Step, watched: dict[str, float]) -> None:
            if step.stage in PREPARING:
                self._watch(step, step.losses, tick)
                return
            self._watch(step, {name: watched[name] for name in ("return", "value", "entropy") if name in watched}, tick)
            last.update(watched)
            marks[1:] = [(step.step, time.monotonic())]

        train_agent(config, self._command, watch)
        result: dict[str, Any] = {"imagined": last, "imagined_steps": how.imagined(0, how.steps)}
        told = f"{result['imagined_steps']} imagined steps"
        if len(marks) > 1:
            # Of this session, from its first step on.
            (first, began), (end, ended) = marks
            result["imagined_steps_per_second"] = how.imagined(first, end) / max(ended - began, 1e-9)
            told += f", {result['imagined_steps_per_second']:.0f} a second"
        return Outcome(how.steps, result, told)

    def _try(self, tick: Callable[[], None]) -> Outcome:
        def tell(stage: str, done: int, total: int, note: str = "") -> None:
            self._say(stage, done, total, note)
            tick()

        judged = self._judge(self._directory / "agent" / "agent", self._directory / "transfer", tell)
        return Outcome(judged.episodes, judged.figures, judged.table)

    def _watch(self, step: Step, numbers: dict[str, float], tick: Callable[[], None]) -> None:
        if step.step % 10 == 0 or step.step == step.steps:
            note = " ".join(f"{name} {value:.4f}" for name, value in numbers.items())
            self._say(step.stage, step.step, step.steps, note)
        tick()

    def _say(self, stage: str, done: int, total: int, note: str) -> None:
        self._tell(f"round {self._number}, {stage}", done, total, note)
