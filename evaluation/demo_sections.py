"""What the demonstration's page says: each part of a report in words, numbers and pictures."""

from __future__ import annotations

from pathlib import Path

from .comparison import CompareReport
from .control_report import ControlReport, Outcome
from .demo_agent import AGENT, AgentConfig
from .metrics import Interval
from .page import Picture, Section, Table
from .transfer import TransferReport


def clips_section(report: CompareReport, folder: Path) -> Section:
    """The same actions, really taken and imagined."""
    config = report.config
    videos = tuple(
        Picture(
            folder / f"clip-{i}.mp4",
            f"Clip {i + 1} of {config.maps}, not chosen. Left: the real engine. Middle: imagined from "
            f"{config.context} real frames and the same actions; it never sees the left picture. Right: the "
            "error, black where the two agree.",
        )
        for i in range(min(config.pictures, config.maps))
    )
    strips = (Picture(folder / "strip-0.png", "The first clip again, frame by frame."),) if videos else ()
    return Section(
        "The same actions in two worlds",
        (
            f"An explorer walks through a real map. The learned world sees {config.context} frames of it, "
            f"then imagines the next {config.horizon} while the explorer walks on.",
        ),
        pictures=videos + strips,
    )


def horizon_section(report: CompareReport, folder: Path) -> Section:
    """Likeness against the horizon, and its numbers."""
    rows = [
        ("one step ahead, frames that changed", report.next_frame),
        (f"mean over {report.config.horizon} imagined steps", report.rollout),
        (f"at imagined step {report.config.horizon}", report.rollout_end),
    ]
    table = Table(
        ("PSNR in dB", "imagined", "copy last real frame", "gain (95 % interval over maps)"),
        tuple(
            (name, f"{g.imagined.estimate:.1f}", f"{g.copying.estimate:.1f}", _decibels(g.gain))
            for name, g in rows
        ),
    )
    return Section(
        "How long imagination stays true",
        (
            f"Averages over {report.config.maps} held-out maps. The baselines know nothing: one repeats the "
            f"last real frame, the other always shows the mean frame of {report.mean_frame_of}.",
        ),
        (table,),
        (
            Picture(
                folder / "horizon.png",
                "Likeness to the true frame and distance of the imagined camera from the true one, against "
                "the number of imagined steps.",
                pixels=False,
            ),
        ),
    )


def planning_section(report: ControlReport, folder: Path) -> Section:
    """What planning achieved, and two episodes of it."""
    config = report.config
    given = "the picture seen there" if config.goal == "frame" else "its pose"
    table = Table(
        ("reached the goal", "all", "in view", "out of view", "real steps when reached"),
        (
            ("planning in imagination", *_outcome(report.planner)),
            ("random actions", *_outcome(report.chance)),
        ),
    )
    pictures: list[Picture] = []
    for i in range(min(config.pictures, config.episodes)):
        pictures += [
            Picture(
                folder / f"episode-{i}.mp4",
                f"Episode {i + 1} of {config.episodes}, not chosen. Left: the real world, which waits while "
                "the planner thinks. Middle: the plan as it is imagined, then the imagined frame for each "
                "real one. Right: the goal.",
            ),
            Picture(
                folder / f"episode-{i}-map.png",
                "The same episode from above, which the agent never sees: the way really taken, every plan "
                "as it was imagined, and the goal with the direction to look in. (The star is a column, "
                "the goal of another task.)",
                pixels=False,
            ),
        ]
    return Section(
        "Planning in imagination, acting in reality",
        (
            f"Each goal lies {config.nearest} to {config.farthest} steps away, in view or just out of view. "
            f"The planner knows {given}. It imagines {config.candidates} plans of {config.horizon} steps in "
            f"each of {config.iterations} rounds, takes {config.replan_interval} real steps of the best, "
            "looks, and plans again.",
            f"A goal counts as reached within {config.radius:.0f} map units (a step is 25) and "
            f"{config.heading:.0f} degrees, in at most {config.budget} real steps. Random actions get the "
            "same goals and the same number of steps.",
        ),
        (table,),
        tuple(pictures),
    )


def agent_section(report: TransferReport, config: AgentConfig, folder: Path) -> Section:
    """What an agent achieved that learned in imagination, and its first episodes."""
    rows = {row.name: row for row in report.rows}
    table = Table(
        ("found the column", "episodes", "real steps when found"),
        tuple(
            (told, _share(rows[name].success), f"{rows[name].steps.estimate:.1f}" if rows[name].steps.n else "-")
            for name, told in ((AGENT, "the agent"), ("random", "random actions"))
        ),
    )
    pictures = tuple(
        Picture(
            folder / f"film-{i}.mp4",
            f"Episode {i + 1} of {config.episodes}, not chosen. Left: what the agent sees. Right: its way from "
            "above, which it never sees; the star is the column.",
        )
        for i in range(min(config.films, config.episodes))
    )
    return Section(
        "Learned in imagination, acting in reality",
        (
            f"This agent has learned inside the world {report.provenance['world']}, by imagined experience. Here it is "
            "to find the magenta column that stands in the room where it starts. It knows frames and where they were "
            "taken, neither the map nor the column's place; it plans nothing, but does at once what its policy says.",
            "Random actions begin at the same places and have as many steps. In brackets: 95 % intervals (Wilson).",
        ),
        (table,),
        pictures,
    )


def again_section(comparison: CompareReport, planning: ControlReport) -> Section:
    """How to measure it in full."""
    name = comparison.provenance["world"]
    return Section(
        "Measure it yourself",
        (
            f"This page is a small sample. The full measurements: worldloop compare --world {name}, "
            f"worldloop plan --world {name} --episodes 50, and worldloop evaluate transfer --agents find-near.",
            "Every number above is in compare/compare.json, plan/plan.json and agent/transfer.json beside this page.",
        ),
    )


def _outcome(outcome: Outcome) -> tuple[str, ...]:
    steps = f"{outcome.steps.estimate:.1f}" if outcome.steps.n else "-"
    return (*(_share(i) for i in (outcome.success, outcome.in_view, outcome.out_of_view)), steps)


def _share(rate: Interval) -> str:
    if not rate.n:
        return "-"
    return f"{round(rate.estimate * rate.n)} of {rate.n} ({rate.low:.0%} to {rate.high:.0%})"


def _decibels(gain: Interval) -> str:
    return f"{gain.estimate:+.1f} ({gain.low:+.1f} to {gain.high:+.1f})"
