"""The command line: ``worldloop VERB``. Parses, calls, prints; no logic."""

from __future__ import annotations

import os
import shlex
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from .agents.dyna_config import DynaConfig
from .agents.train import TrainAgentConfig
from .envs.collecting import CollectConfig, EnvKwargs
from .errors import ConfigError, WorldloopError
from .evaluation import (
    CalibrationConfig,
    CompareConfig,
    DemoConfig,
    EventConfig,
    ImagineConfig,
    PlanConfig,
    PlanningConfig,
    PlanRankingConfig,
    RetentionConfig,
    ReturnConfig,
    SensitivityConfig,
)
from .evaluation.transfer import TransferConfig
from .evaluation.transfer_actors import AgentPlanning
from .world_models.training.config import TrainConfig

Device = Literal["auto", "cpu", "cuda"]
DESCRIPTION = "A learned video world that remembers: record, train, imagine, plan, compare."
_SILENCE = 30.0
_ERROR = Console(stderr=True, highlight=False, soft_wrap=True)
_OUT = Console(highlight=False, soft_wrap=True)


@dataclass(frozen=True)
class _OneWorld:
    world: str = "doom-rooms-tiny"
    """A bundled world, or the directory of a trained one."""
    device: Device = "auto"
    """Where to compute."""


@dataclass(frozen=True)
class _Worlds:
    worlds: tuple[str, ...] = ("doom-rooms-tiny",)
    """Bundled worlds, or directories of trained ones; the others are compared with the first. Each may have a name
    before it and changes behind it: "forgetful=runs/mine/world@none" retrieves nothing,
    "whole=runs/mine/world@packing=raw" packs otherwise; "@positions=true" and "@retrieval=nearest" likewise."""
    device: Device = "auto"
    """Where to compute."""


@dataclass(frozen=True)
class Collect(CollectConfig):
    """Record experience in a real world. The same command again completes a recording that was interrupted."""


@dataclass(frozen=True)
class Train(TrainConfig):
    """Train a world on recorded experience, or go on with a run that was interrupted."""


@dataclass(frozen=True)
class Compare(_OneWorld):
    """Same real state, same actions: real and imagined side by side, on held-out maps."""

    out: Path = Path("runs/compare")
    """Directory for the report (JSON), the curves, the videos and the strips."""
    settings: Annotated[CompareConfig, tyro.conf.arg(name="")] = field(default_factory=CompareConfig)


@dataclass(frozen=True)
class Imagine(_OneWorld):
    """Film one imagined episode, from a recorded start: actions you name, or random ones."""

    out: Path = Path("runs/imagine")
    """Directory for the video and the numbers (JSON)."""
    settings: Annotated[ImagineConfig, tyro.conf.arg(name="")] = field(default_factory=ImagineConfig)


@dataclass(frozen=True)
class Plan(_OneWorld):
    """Plan in imagination, act in the real world: MPC towards goals on held-out maps, against random actions."""

    out: Path = Path("runs/plan")
    """Directory for the report (JSON), the videos and the maps."""
    settings: Annotated[PlanConfig, tyro.conf.arg(name="")] = field(default_factory=PlanConfig)


@dataclass(frozen=True)
class Return(_Worlds):
    """Leave a place and come back another way or the same: is the imagined place the one that was left?"""

    out: Path = Path("runs/return")
    """Directory for the report (JSON), the figures, the videos and the maps."""
    settings: Annotated[ReturnConfig, tyro.conf.arg(name="")] = field(default_factory=ReturnConfig)


@dataclass(frozen=True)
class Events(_Worlds):
    """Change something, go away and come back: does the imagined place show it as it is now, or as it was?"""

    out: Path = Path("runs/events")
    """Directory for the report (JSON) and the pictures."""
    settings: Annotated[EventConfig, tyro.conf.arg(name="")] = field(default_factory=EventConfig)


@dataclass(frozen=True)
class Retention(_Worlds):
    """Leave a place for longer and longer: how well is it still known?"""

    out: Path = Path("runs/retention")
    """Directory for the report (JSON) and the figure."""
    settings: Annotated[RetentionConfig, tyro.conf.arg(name="")] = field(default_factory=RetentionConfig)


@dataclass(frozen=True)
class Sensitivity(_OneWorld):
    """Tell a world noisy poses, or make its retrieval look wider and narrower: how much worse does it know a place?"""

    out: Path = Path("runs/sensitivity")
    """Directory for the report (JSON) and the figure."""
    settings: Annotated[SensitivityConfig, tyro.conf.arg(name="")] = field(default_factory=SensitivityConfig)


@dataclass(frozen=True)
class Calibration(_OneWorld):
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
class Ranking(_Worlds):
    """Imagine random plans and carry all of them out: do imagined returns rank real ones, and how much better than the
    truth does the plan look that is chosen?"""

    out: Path = Path("runs/ranking")
    """Directory for the report (JSON) and the figure."""
    settings: Annotated[PlanRankingConfig, tyro.conf.arg(name="")] = field(default_factory=PlanRankingConfig)


@dataclass(frozen=True)
class Transfer:
    """Does what was learned in imagination hold in the real world? Agents on held-out maps, beside chance, and what
    planning adds to them. The same command goes on with a test that was interrupted."""

    agents: tuple[str, ...]
    """Directories of agents; each may have a name before it: "cloned=runs/clone/agent"."""
    device: Device = "auto"
    """Where to compute."""
    out: Path = Path("runs/transfer")
    """Directory for the report (JSON)."""
    planning: AgentPlanning = field(default_factory=AgentPlanning)
    """Whether they plan too, and how."""
    settings: Annotated[TransferConfig, tyro.conf.arg(name="")] = field(default_factory=TransferConfig)


@dataclass(frozen=True)
class TrainAgent(TrainAgentConfig):
    """Train an agent in a learned world, or go on with a run that was interrupted."""


@dataclass(frozen=True)
class Run(DynaConfig):
    """From nothing to an agent, in rounds: record the real world, train a world on all recordings, train an agent in
    it, try it on held-out maps; record more with that agent. Hours; the same command goes on after an interruption."""

    transfer: TransferConfig = field(default_factory=lambda: TransferConfig(("find-near", "find-far"), episodes=64))
    """How the agent of every round is tried in the real world."""
    planning: AgentPlanning = field(default_factory=AgentPlanning)
    """Whether it plans there too, and how."""
    smoke: bool = False
    """Next to no data and steps, whatever is said above: shows in minutes that everything runs, and nothing else."""


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
    )


@dataclass(frozen=True)
class Demo(_OneWorld):
    """See it work: a comparison, planning in the real world, and one page with the pictures and figures."""

    out: Path = Path("demo")
    """Directory for the page and what it shows."""
    seed: int = 0
    """Of maps, goals and imagination."""


@dataclass(frozen=True)
class MinariExport:
    """Write a data set as a new Minari data set, frames bit-exact."""

    data: Path
    """Directory of the data set."""
    id: str
    """Of the Minari data set: namespace/name-v0. It is written where Minari keeps its own."""
    author: str | None = None
    """Who recorded it, for its readers."""
    description: str | None = None
    """What it is, for its readers."""


@dataclass(frozen=True)
class MinariImport:
    """Write a Minari data set as a data set to train on. What was exported here comes back bit-exact."""

    id: str
    """Of a Minari data set on this machine."""
    out: Path
    """Directory to write."""
    env: str | None = None
    """Of data recorded elsewhere: Gymnasium id of an environment with the same actions, which says what they do."""
    env_kwargs: EnvKwargs | None = None
    """Arguments of that environment, such as `actions=continuous`."""
    map_seed: int | None = None
    """Of data recorded elsewhere whose infos do not tell: the map of all episodes."""


@dataclass(frozen=True)
class Minari:
    """Data sets to Minari and back."""

    way: (
        Annotated[MinariExport, tyro.conf.subcommand("export")]
        | Annotated[MinariImport, tyro.conf.subcommand("import")]
    )


@dataclass(frozen=True)
class Doctor:
    """Check what this machine has: versions, arithmetic, the game engine, bundled worlds."""


Verb = (
    Annotated[Demo, tyro.conf.subcommand("demo")]
    | Annotated[Collect, tyro.conf.subcommand("collect")]
    | Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[TrainAgent, tyro.conf.subcommand("train-agent")]
    | Annotated[Run, tyro.conf.subcommand("run")]
    | Annotated[Imagine, tyro.conf.subcommand("imagine")]
    | Annotated[Plan, tyro.conf.subcommand("plan")]
    | Annotated[Compare, tyro.conf.subcommand("compare")]
    | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
    | Annotated[Minari, tyro.conf.subcommand("minari")]
    | Annotated[Doctor, tyro.conf.subcommand("doctor")]
)


class _Bars:
    """Progress bars with the time left, one per stage; where no one watches, a line now and then."""

    def __init__(self) -> None:
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=_ERROR,
        )
        self._tasks: dict[str, Any] = {}
        self._begun: dict[str, float] = {}
        self._told = -_SILENCE

    def __enter__(self) -> _Bars:
        if _ERROR.is_terminal:
            self._bars.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if _ERROR.is_terminal:
            self._bars.stop()

    def __call__(self, stage: str, done: int, total: int, note: str = "") -> None:
        if stage not in self._tasks:
            self._tasks[stage] = self._bars.add_task(stage, total=total, note=note)
            self._begun[stage] = time.monotonic()
        self._bars.update(self._tasks[stage], completed=done, total=total, note=note)
        now = time.monotonic()
        if not _ERROR.is_terminal and (done >= total or now - self._told >= _SILENCE):
            self._told = now
            _ERROR.print(f"{stage}: {done}/{total} after {now - self._begun[stage]:.0f} s {note}".rstrip())


def _load(verb: _OneWorld, **use: str) -> Any:
    from .world_models.pretrained import load_world
    from .world_models.training.train import pick_device

    return load_world(verb.world, pick_device(verb.device), **use)


def _collect(config: Collect) -> None:
    from .envs.collecting import collect

    with _Bars() as bars:
        dataset = collect(config, lambda p: bars("maps", p.maps_done, p.maps, f"{p.frames} frames"))
    _OUT.print(f"{config.out}: {dataset.num_frames} frames in {len(dataset)} episodes, {dataset.split} split.")


def _train(config: Train) -> None:
    from .envs.contexts import add_contexts
    from .world_models.training.fit import Progress as Step
    from .world_models.training.train import train
    from .world_models.training.validation import Validation

    with _Bars() as bars:

        def watch(step: Step, scores: Validation | None) -> None:
            if step.step % 10 == 0 or step.step == step.steps:
                losses = " ".join(f"{name} {value:.4f}" for name, value in step.losses.items())
                bars(step.stage, step.step, step.steps, losses)
            if scores is not None:
                named = ", ".join(f"{k} {v:.2f}" for k, v in scores.scalars().items())
                _ERROR.print(f"step {step.step}, validation in dB: {named}")

        world = train(config, shlex.join(["worldloop", *sys.argv[1:]]), watch)
        if world:
            add_contexts(world, config.data, seed=config.seed)
    _OUT.print(f"The world is in {world}." if world else f"Stopped as asked; the same command goes on in {config.out}.")


def _train_agent(config: TrainAgent) -> None:
    from .agents.train import train_agent

    with _Bars() as bars:

        def watch(step: Any, watched: dict[str, float]) -> None:
            if step.step % 10 == 0 or step.step == step.steps:
                told = [name for name in ("return", "value", "entropy") if name in watched]
                bars(step.stage, step.step, step.steps, " ".join(f"{name} {watched[name]:.3f}" for name in told))

        agent = train_agent(config, shlex.join(["worldloop", *sys.argv[1:]]), watch)
    _OUT.print(f"The agent is in {agent}." if agent else f"Stopped as asked; the same command goes on in {config.out}.")


def _run(verb: Run) -> None:
    from dataclasses import fields, replace

    from .agents.dyna import run
    from .agents.dyna_config import smoke
    from .evaluation.transfer_actors import TransferJudge
    from .world_models.training.train import pick_device

    config, tests = DynaConfig(**{f.name: getattr(verb, f.name) for f in fields(DynaConfig)}), verb.transfer
    if verb.smoke:
        config, tests = smoke(config), replace(tests, tasks=("find-near",), episodes=4, envs=2, max_steps=12)
    judge = TransferJudge(tests, verb.planning, str(pick_device(verb.device)))
    with _Bars() as bars:
        done = run(config, judge, shlex.join(["worldloop", *sys.argv[1:]]), bars)
    _OUT.print(str(done), markup=False)
    _OUT.print(f"The last agent is in {config.directory(config.rounds - 1) / 'agent' / 'agent'}.")


def _transfer(verb: Transfer, progress: _Bars) -> Any:
    from .evaluation.transfer import evaluate_transfer
    from .evaluation.transfer_actors import cast_of
    from .world_models.training.train import pick_device

    named = [(name or Path(path).parent.name, path) for name, _, path in (a.rpartition("=") for a in verb.agents)]
    agents = {name: Path(path) for name, path in named}
    if len(agents) < len(named):
        raise ConfigError("Give at least one agent, each with a name of its own.")
    cast = cast_of(agents, verb.planning, str(pick_device(verb.device)), verb.settings.seed)
    return evaluate_transfer(
        cast.world, cast.actors, verb.settings, verb.out, identities=cast.identities, progress=progress
    )


def _compare(verb: Compare) -> None:
    from .evaluation import compare

    with _Bars() as bars:
        report = compare(_load(verb), verb.settings, verb.out, progress=bars)
    lines = {
        "one step ahead, frames that changed": report.next_frame,
        f"mean over {report.config.horizon} imagined steps": report.rollout,
        f"at imagined step {report.config.horizon}": report.rollout_end,
    }
    _summary(lines, verb.out)


def _evaluate(verb: Evaluate) -> None:
    from .evaluation import calibration, event_test, plan_ranking, planning_table, retention, return_test, sensitivity

    test = verb.test
    report: Any
    if isinstance(test, Transfer):
        with _Bars() as bars:
            report = _transfer(test, bars)
    elif isinstance(test, Sensitivity):
        world = _load(test)
        with _Bars() as bars:
            report = sensitivity(world, test.settings, test.out, progress=bars)
    elif isinstance(test, Calibration):
        world = _load(test)
        with _Bars() as bars:
            report = calibration(world, test.settings, test.out, progress=bars)
    elif isinstance(test, (Planning, Ranking)):
        worlds = _ways_of(test)
        with _Bars() as bars:
            if isinstance(test, Planning):
                report = planning_table(worlds, test.settings, test.out, progress=bars)
            else:
                report = plan_ranking(worlds, test.settings, test.out, progress=bars)
    else:
        worlds = _named_worlds(test.worlds, test.device)
        with _Bars() as bars:
            if isinstance(test, Return):
                report = return_test(worlds, test.settings, test.out, progress=bars)
            elif isinstance(test, Events):
                report = event_test(worlds, test.settings, test.out, progress=bars)
            else:
                report = retention(worlds, test.settings, test.out, progress=bars)
    _OUT.print(str(report), markup=False)
    _OUT.print(f"Pictures and the whole report: {test.out}")


def _ways_of(test: Planning | Ranking) -> dict[str, Any]:
    from .evaluation.planning_methods import Worlds

    videos, states = _named_worlds(test.worlds, test.device), {}
    if {"state", "draft"} & set(test.settings.imaginations):
        states = _named_worlds(test.worlds, test.device, imagination="state")
    return {name: Worlds(world, states.get(name)) for name, world in videos.items()}


def _named_worlds(entries: tuple[str, ...], device: Device, **use: str) -> dict[str, Any]:
    from .world_models.pretrained import load_world
    from .world_models.training.train import pick_device

    worlds = {}
    for entry in entries:
        rest, *changes = entry.split("@")
        name, named, world = rest.partition("=")
        # A change without a name is a retrieval strategy.
        named_changes = (c if "=" in c.partition(":")[0] else f"retrieval={c}" for c in changes)
        overrides = {key: value for key, _, value in (c.partition("=") for c in named_changes)}
        if unknown := sorted(set(overrides) - {"packing", "positions", "retrieval"}):
            raise ConfigError(f"Behind a world stand packing=, positions= or a retrieval strategy, not {unknown[0]!r}.")
        worlds[name if named else Path(rest).name] = load_world(
            world if named else rest, pick_device(device), **overrides, **use
        )
    if len(worlds) < len(entries):
        raise ConfigError(f"The worlds need different names, got {', '.join(entries)}.")
    return worlds


def _imagine(verb: Imagine) -> None:
    from .evaluation import imagine_episode

    with _Bars() as bars:
        report = imagine_episode(_load(verb), verb.settings, verb.out, progress=bars)
    end = "until the world ended the episode" if report["terminated"] else "to the end"
    _OUT.print(f"{report['steps']} steps, {end}; return {report['return']:.3f}. The film: {verb.out / 'imagined.mp4'}")


def _plan(verb: Plan) -> None:
    from .evaluation import run_control

    with _Bars() as bars:
        state = None if verb.settings.imagination == "video" else _load(verb, imagination="state")
        report = run_control(_load(verb), verb.settings, verb.out, state=state, progress=bars)
    _summary({"planning": report.planner, "random actions": report.chance}, verb.out)


def _demo(verb: Demo) -> None:
    from dataclasses import replace

    from .evaluation import run_demo

    config = DemoConfig()
    config = replace(config, compare=replace(config.compare, seed=verb.seed), plan=replace(config.plan, seed=verb.seed))
    with _Bars() as bars:
        report = run_demo(_load(verb), verb.out, config, progress=bars)
    _OUT.print(f"Done in {report.seconds:.0f} s. Open {report.page} in a browser.")


def _minari(verb: Minari) -> None:
    from .rollouts.minari import export_minari, import_minari
    from .rollouts.store import open_dataset

    way = verb.way
    if isinstance(way, MinariExport):
        dataset = open_dataset(way.data, purpose="report")
        export_minari(dataset, way.id, author=way.author, description=way.description)
        _OUT.print(f"{way.id}: {dataset.num_frames} frames in {len(dataset)} episodes.")
        return
    spec = None
    if way.env is not None:
        import gymnasium as gym

        from .envs.explorers import action_spec

        try:
            env = gym.make(way.env, disable_env_checker=True, **(way.env_kwargs or {}))
        except (gym.error.Error, TypeError) as error:
            raise ConfigError(f"Cannot make {way.env}: {error}") from error
        try:
            spec = action_spec(env)
        finally:
            env.close()
    written = import_minari(way.id, way.out, action_spec=spec, map_seed=way.map_seed)
    _OUT.print(f"The data set is in {written}.")


def _doctor(verb: Doctor) -> None:
    from importlib.metadata import version

    import torch

    from .envs.doom_rooms.env import DoomRoomsEnv
    from .world_models.pretrained import bundled_worlds
    from .world_models.training.fit import native_bfloat16

    for name in ("worldloop", "torch", "gymnasium", "vizdoom", "numpy"):
        _OUT.print(f"{name} {version(name)}")
    _OUT.print(f"processor cores: {os.cpu_count()}, torch threads: {torch.get_num_threads()}")
    _OUT.print(f"native bfloat16 on the processor: {native_bfloat16(torch.device('cpu'))}")
    _OUT.print(f"CUDA: {torch.cuda.get_device_name() if torch.cuda.is_available() else 'none'}")
    _OUT.print(f"bundled worlds: {', '.join(bundled_worlds()) or 'none'}")
    env = DoomRoomsEnv(split="train")
    try:
        observation, _ = env.reset(seed=0)
        _OUT.print(f"DoomRooms: the engine runs, frames {observation.shape}")
    finally:
        env.close()


def _summary(lines: dict[str, Any], out: Path) -> None:
    for name, value in lines.items():
        _OUT.print(f"{name}: {value}")
    _OUT.print(f"Pictures and the whole report: {out}")


def main() -> None:
    """Entry point of ``worldloop``: status 0, or 1 with one sentence, or 130 after Ctrl-C."""
    actions: dict[type, Any] = {
        Demo: _demo, Collect: _collect, Train: _train, TrainAgent: _train_agent, Run: _run, Imagine: _imagine,
        Plan: _plan, Compare: _compare, Evaluate: _evaluate, Minari: _minari, Doctor: _doctor,
    }  # fmt: skip
    try:
        verb = tyro.cli(Verb, config=(tyro.conf.OmitSubcommandPrefixes,), prog="worldloop", description=DESCRIPTION)
        actions[type(verb)](verb)
    except (WorldloopError, OSError) as error:
        _ERROR.print(f"[bold red]error:[/] {error}")
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        _ERROR.print("Stopped. Everything finished so far is kept; the same command goes on from there.")
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
