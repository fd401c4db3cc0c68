"""The command line: ``worldloop VERB``. Parses, calls, prints; no logic."""

from __future__ import annotations

from typing import Annotated, Any

import tyro

from ..errors import WorldloopError
from .console import ERROR, plain_warnings, tell_error
from .data import Collect, Gather, Minari, do_collect, do_gather, do_minari
from .doctor import Doctor, do_doctor
from .evaluating import Evaluate, do_evaluate
from .looking import Compare, Demo, Imagine, Plan, do_compare, do_demo, do_imagine, do_plan
from .training import Run, Train, TrainAgent, do_run, do_train, do_train_agent

DESCRIPTION = "A learned video world that remembers: record, train, imagine, plan, compare."

Verb = (
    Annotated[Demo, tyro.conf.subcommand("demo")]
    | Annotated[Collect, tyro.conf.subcommand("collect")]
    | Annotated[Gather, tyro.conf.subcommand("gather")]
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


def main() -> None:
    """Entry point of ``worldloop``: status 0, or 1 with one sentence, or 130 after Ctrl-C."""
    actions: dict[type, Any] = {
        Demo: do_demo, Collect: do_collect, Gather: do_gather, Train: do_train, TrainAgent: do_train_agent,
        Run: do_run, Imagine: do_imagine, Plan: do_plan, Compare: do_compare, Evaluate: do_evaluate, Minari: do_minari,
        Doctor: do_doctor,
    }  # fmt: skip
    try:
        verb = tyro.cli(Verb, config=(tyro.conf.OmitSubcommandPrefixes,), prog="worldloop", description=DESCRIPTION)
        with plain_warnings():
            actions[type(verb)](verb)
    except (WorldloopError, OSError) as error:
        tell_error(error)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        ERROR.print("Stopped. Everything finished so far is kept; the same command goes on from there.")
        raise SystemExit(130) from None
