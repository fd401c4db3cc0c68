"""`worldloop evaluate`: measure worlds and agents."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from ..errors import ConfigError
from ..evaluation import (
    CalibrationConfig,
    EventConfig,
    PlanningConfig,
    PlanRankingConfig,
    RetentionConfig,
    ReturnConfig,
    SensitivityConfig,
)
from ..evaluation.transfer import TransferConfig, TransferReport
from ..evaluation.transfer_actors import WITH_MEMORY, WITHOUT, AgentPlanning, Returning
from ..evaluation.values_report import ValuesConfig
from ..world_models.config import Imagination
from .console import OUT, Bars
from .worlds import Device, OneWorld, SeveralWorlds, load_one, named_worlds


@dataclass(frozen=True)
class Return(SeveralWorlds):
    """Leave a place and come back another way or the same: is the imagined place the one that was left?"""

    out: Path = Path("runs/return")
    """Directory for the report (JSON), the figures, the videos and the maps."""
    settings: Annotated[ReturnConfig, tyro.conf.arg(name="")] = field(default_factory=ReturnConfig)


@dataclass(frozen=True)
class Events(SeveralWorlds):
    """Change something, go away and come back: does the imagined place show it as it is now, or as it was?"""

    out: Path = Path("runs/events")
    """Directory for the report (JSON) and the pictures."""
    settings: Annotated[EventConfig, tyro.conf.arg(name="")] = field(default_factory=EventConfig)


@dataclass(frozen=True)
class Retention(SeveralWorlds):
    """Leave a place for longer and longer: how well is it still known?"""

    out: Path = Path("runs/retention")
    """Directory for the report (JSON) and the figure."""
    settings: Annotated[RetentionConfig, tyro.conf.arg(name="")] = field(default_factory=RetentionConfig)


@dataclass(frozen=True)
class Sensitivity(OneWorld):
    """Tell a world noisy poses, or make its retrieval look wider and narrower: how much worse does it know a place?"""

    out: Path = Path("runs/sensitivity")
    """Directory for the report (JSON) and the figure."""
    settings: Annotated[SensitivityConfig, tyro.conf.arg(name="")] = field(default_factory=SensitivityConfig)


@dataclass(frozen=True)
class Calibration(OneWorld):
    """Does a world know when it is wrong? Its uncertainties against its error, and thresholds for max_uncertainty."""

    out: Path = Path("runs/calibration")
    """Directory for the report (JSON) and the figure."""
    settings: Annotated[CalibrationConfig, tyro.conf.arg(name="")] = field(default_factory=CalibrationConfig)


@dataclass(frozen=True)
class Planning:
    """Who reaches which goals: planners with and without memory, and baselines, in one table, at equal wall time if
    asked for. The same command goes on with a table that was interrupted, and adds rows to one that is there."""

    worlds: tuple[str, ...] = ("memory=doom-rooms-tiny", "forgetful=doom-rooms-tiny@none")
    """Worlds to plan in, as elsewhere: bundled ones or directories, with a name before and changes behind. The first is
    the one that the learned baselines see by."""
    device: Device = "auto"
    """Where to compute."""
    out: Path = Path("runs/planning")
    """Directory for the table (Markdown, JSON) and its cells."""
    settings: Annotated[PlanningConfig, tyro.conf.arg(name="")] = field(default_factory=PlanningConfig)


@dataclass(frozen=True)
class Ranking(SeveralWorlds):
    """Imagine random plans and carry all of them out: do imagined returns rank real ones, and how much better than the
    truth does the plan look that is chosen?"""

    out: Path = Path("runs/ranking")
    """Directory for the report (JSON) and the figure."""
    settings: Annotated[PlanRankingConfig, tyro.conf.arg(name="")] = field(default_factory=PlanRankingConfig)


@dataclass(frozen=True)
class Transfer:
    """Does what was learned in imagination hold in the real world? Agents on held-out maps, beside chance, and what
    planning adds to them. The same command goes on with a test that was interrupted."""

    agents: tuple[str, ...] = ()
    """Bundled agents, or directories of trained ones; each may have a name before it: "cloned=runs/clone/agent"."""
    beside: tuple[str, ...] = ()
    """Names in the table, such as those of agents that learned in the real world: everyone else minus the mean of
    these, map by map. With planning, where nobody is named, both is set beside the policy."""
    device: Device = "auto"
    """Where to compute."""
    out: Path = Path("runs/transfer")
    """Directory for the report (JSON)."""
    planning: AgentPlanning = field(default_factory=AgentPlanning)
    """Whether they plan too, and how."""
    returning: Returning = field(default_factory=Returning)
    """Whether a world goes out and comes back, with its memory and without, and how it plans its way."""
    settings: Annotated[TransferConfig, tyro.conf.arg(name="")] = field(default_factory=TransferConfig)


@dataclass(frozen=True)
class Values:
    """Is what an agent expects true? Its values and its imagined lives against real ones from the same moments, on
    held-out maps."""

    agent: Path
    """A bundled agent, or the directory of a trained one."""
    imagination: Imagination | None = None
    """How its world imagines; default: as in its training, or, where that is not known, as the world does by itself."""
    device: Device = "auto"
    """Where to compute."""
    out: Path = Path("runs/values")
    """Directory for the report (JSON) and the figure."""
    settings: Annotated[ValuesConfig, tyro.conf.arg(name="")] = field(default_factory=ValuesConfig)


@dataclass(frozen=True)
class Evaluate:
    """Measure on held-out maps what a world remembers, whether it knows when it is wrong, what plans in it achieve."""

    test: (
        Annotated[Return, tyro.conf.subcommand("return")]
        | Annotated[Events, tyro.conf.subcommand("events")]
        | Annotated[Retention, tyro.conf.subcommand("retention")]
        | Annotated[Sensitivity, tyro.conf.subcommand("sensitivity")]
        | Annotated[Calibration, tyro.conf.subcommand("calibration")]
        | Annotated[Planning, tyro.conf.subcommand("planning")]
        | Annotated[Ranking, tyro.conf.subcommand("ranking")]
        | Annotated[Transfer, tyro.conf.subcommand("transfer")]
        | Annotated[Values, tyro.conf.subcommand("values")]
    )


def do_evaluate(verb: Evaluate) -> None:
    """Measure, and say the figures."""
    from ..evaluation import calibration, event_test, plan_ranking, planning_table, retention, return_test, sensitivity

    test = verb.test
    report: Any
    if isinstance(test, Transfer):
        with Bars() as bars:
            report = _transfer(test, bars)
    elif isinstance(test, Values):
        with Bars() as bars:
            report = _values(test, bars)
    elif isinstance(test, Sensitivity):
        world = load_one(test)
        with Bars() as bars:
            report = sensitivity(world, test.settings, test.out, progress=bars)
    elif isinstance(test, Calibration):
        world = load_one(test)
        with Bars() as bars:
            report = calibration(world, test.settings, test.out, progress=bars)
    elif isinstance(test, (Planning, Ranking)):
        worlds = _ways_of(test)
        with Bars() as bars:
            if isinstance(test, Planning):
                report = planning_table(worlds, test.settings, test.out, progress=bars)
            else:
                report = plan_ranking(worlds, test.settings, test.out, progress=bars)
    else:
        worlds = named_worlds(test.worlds, test.device)
        with Bars() as bars:
            if isinstance(test, Return):
                report = return_test(worlds, test.settings, test.out, progress=bars)
            elif isinstance(test, Events):
                report = event_test(worlds, test.settings, test.out, progress=bars)
            else:
                report = retention(worlds, test.settings, test.out, progress=bars)
    OUT.print(str(report), markup=False)
    if isinstance(test, Transfer) and test.returning.add:
        OUT.print(f"memory over none: {report.compare('return', WITH_MEMORY, WITHOUT)}", markup=False)
    if isinstance(test, Transfer) and (test.beside or test.planning.add):
        OUT.print(_beside(test, report), markup=False, soft_wrap=True)
    OUT.print(f"Pictures and the whole report: {test.out}")


def _transfer(verb: Transfer, progress: Bars) -> Any:
    from ..agents.pretrained import agent_directory
    from ..evaluation.transfer import evaluate_transfer
    from ..evaluation.transfer_actors import cast_of
    from ..world_models.training.train import pick_device

    given = (entry.rpartition("=") for entry in verb.agents)
    named = [(name or Path(path).parent.name or path, path) for name, _, path in given]
    agents = {name: agent_directory(path) for name, path in named}
    if len(agents) < len(named):
        raise ConfigError("Give at least one agent, each with a name of its own.")
    if verb.returning.add and verb.settings.tasks != ("return",):
        raise ConfigError("Going out and coming back is the task return alone: give --tasks return.")
    cast = cast_of(agents, verb.planning, str(pick_device(verb.device)), verb.settings.seed, verb.returning)
    unknown = [name for name in verb.beside if name not in (*cast.actors, "random")]
    if unknown:
        raise ConfigError(f"Nobody is called {', '.join(unknown)}; there are {', '.join((*cast.actors, 'random'))}.")
    return evaluate_transfer(
        cast.world, cast.actors, verb.settings, verb.out, identities=cast.identities, progress=progress
    )


def _beside(verb: Transfer, report: TransferReport) -> str:
    """Differences map by map, to read."""
    if verb.beside:
        return report.beside(verb.beside)
    played = next(iter(report.episodes.values()))
    pairs = [(name, f"{name.removesuffix(': both')}: policy") for name in played if name.endswith(": both")]
    return "\n".join(report.difference(task, name, (other,)) for task in report.episodes for name, other in pairs)


def _values(verb: Values, progress: Bars) -> Any:
    from ..evaluation.values import agent_in, evaluate_values
    from ..world_models.training.train import pick_device

    world, agent = agent_in(verb.agent, verb.imagination, str(pick_device(verb.device)), verb.settings.seed)
    return evaluate_values(world, agent, verb.settings, verb.out, progress=progress)


def _ways_of(test: Planning | Ranking) -> dict[str, Any]:
    from ..evaluation.planning_methods import Worlds

    videos, states = named_worlds(test.worlds, test.device), {}
    if {"state", "draft"} & set(test.settings.imaginations):
        states = named_worlds(test.worlds, test.device, imagination="state")
    return {name: Worlds(world, states.get(name)) for name, world in videos.items()}
