"""An episode of planning as pictures: real and imagined, side by side and frame by frame, and the ways over the map."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ..envs.doom_rooms.layout import WALL, Layout
from ..envs.doom_rooms.map_picture import draw_map
from ..world_models.world import World
from .execution import Trace
from .figures import COLOURS, write_figure
from .goals import Pose, separation
from .media import Frames, error_picture, panes, strip, write_gif, write_png, write_video

_ACTED, _IMAGINED, _CONTEXT, _GOAL = COLOURS[0], COLOURS[1], "#8a8a92", "#c2007a"
_SHOWN_PLANS = 3
_SHOWN_CANDIDATES = 200
_SHOWN_STEPS = 16
FPS = 8


def draw_episode(world: World, trace: Trace, out: Path, name: str, elites: int = 8) -> tuple[str, ...]:
    """Write ``name.mp4``, ``name.gif``, ``name-map.png``, ``name-plans.png`` and ``name-strip.png`` into ``out``.

    Args:
        world: decodes what was imagined.
        trace: the episode, whose planner was watched.
        out: a directory.
        name: of the files.
        elites: how many of the best candidates stand out.

    Returns:
        The names of the files.
    """
    video = episode_video(world, trace)
    files = [
        write_video(out / f"{name}.mp4", video, FPS),
        write_gif(out / f"{name}.gif", video, FPS),
        write_figure(out / f"{name}-map.png", map_figure(trace)),
        write_figure(out / f"{name}-plans.png", plans_figure(trace, elites)),
        write_png(out / f"{name}-strip.png", episode_strip(world, trace)),
    ]
    return tuple(path.name for path in files)


@torch.inference_mode()
def episode_video(world: World, trace: Trace) -> Frames:
    """Frames (T', H', W', 3): real | imagined | goal.

    Before every plan the real world stands still while the chosen plan plays in imagination; then its first
    actions are carried out, and beside each real frame stands the one that was imagined for that moment.
    """
    goal = trace.task.goal_frame
    real, imagined, captions = [trace.frames[0]], [trace.frames[0]], ["start"]
    starts = [plan.step for plan in trace.plans]
    for number, (plan, until) in enumerate(zip(trace.plans, [*starts[1:], trace.steps], strict=True)):
        dreams = world.render(plan.latents.to(world.device)).cpu().numpy()
        for k, dream in enumerate(dreams):
            real.append(trace.frames[plan.step])
            imagined.append(dream)
            captions.append(f"plan {number + 1}: imagining step {k + 1} of {len(dreams)}")
        for step in range(plan.step, until):
            real.append(trace.frames[step + 1])
            imagined.append(dreams[step - plan.step])
            captions.append(f"real step {step + 1}: {_gap(trace.poses[step + 1], trace.task.goal_pose)}")
    captions[-1] += " - reached" if trace.reached else " - out of steps"
    clips = {"real": np.stack(real), "imagined": np.stack(imagined), "goal": np.stack([goal] * len(real))}
    video = panes(clips, captions)
    # The end is held for a second, so that one sees where a loop closes.
    return np.concatenate([video, video[-1:].repeat(FPS, 0)])


def map_figure(trace: Trace) -> Figure:
    """The episode from above: what was seen before, every plan as imagined, and the way really taken."""
    figure = Figure(figsize=(5.6, 5.6), layout="constrained", dpi=100)
    axes = figure.add_subplot()
    _ground(axes, trace.layout)
    context, path = trace.task.poses, np.stack(trace.poses)
    axes.plot(*context[:, :2].T, color=_CONTEXT, linewidth=1.2, linestyle=":", label="seen before the start")
    for i, plan in enumerate(trace.plans):
        points = np.concatenate([path[plan.step][None], plan.poses])[:, :2]
        axes.plot(*points.T, color=_IMAGINED, linewidth=1, alpha=0.7, label="imagined" if not i else None)
    axes.plot(*path[:, :2].T, color=_ACTED, linewidth=2.2, marker=".", label="really taken")
    _arrow(axes, path[0], "black")
    _arrow(axes, path[-1], _ACTED)
    _arrow(axes, trace.task.goal_pose, _GOAL)
    axes.plot(
        *trace.task.goal_pose[:2], marker="x", color=_GOAL, markersize=9, linestyle="", label="goal"
    )
    axes.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, -0.09), ncols=4, frameon=False)
    verdict = f"reached in {trace.steps} steps" if trace.reached else f"not reached in {trace.steps} steps"
    axes.set_title(f"map {trace.task.map_seed}: {verdict} (known way: {trace.task.steps})", fontsize=10)
    return figure


def plans_figure(trace: Trace, elites: int = 8) -> Figure:
    """The first, middle and last plan from above: all candidates, the best of them, the chosen one, and what came."""
    last = len(trace.plans) - 1
    shown = sorted({round(last * k / (_SHOWN_PLANS - 1)) for k in range(_SHOWN_PLANS)})
    figure = Figure(figsize=(4.2 * len(shown), 5.0), layout="constrained", dpi=100)
    path, first = np.stack(trace.poses), None
    for place, number in enumerate(shown):
        plan = trace.plans[number]
        # Plans may lead out of the map; all of them are seen at the same scale.
        axes = first = figure.add_subplot(1, len(shown), place + 1, sharex=first, sharey=first)
        _ground(axes, trace.layout)
        here = path[plan.step]
        if plan.candidates is not None:
            order = np.argsort(plan.candidates.cost, kind="stable")
            # Plans of keys differ by little and are many: every so manieth of the others shows where they lead.
            others = order[elites:][:: max(1, len(order) // _SHOWN_CANDIDATES)]
            groups = ((others, _CONTEXT, 0.4, "candidates"), (order[:elites], COLOURS[4], 1.0, "elites"))
            for chosen, colour, width, label in groups:
                for i, poses in enumerate(plan.candidates.poses[chosen]):
                    points = np.concatenate([here[None], poses])[:, :2].T
                    axes.plot(*points, color=colour, linewidth=width, alpha=0.7, label=None if i else label)
        axes.plot(*np.concatenate([here[None], plan.poses])[:, :2].T, color=_IMAGINED, linewidth=1.6, label="chosen")
        axes.plot(*path[:, :2].T, color=_ACTED, linewidth=1.6, marker=".", markersize=4, label="really taken")
        _arrow(axes, here, "black")
        _arrow(axes, trace.task.goal_pose, _GOAL)
        axes.set_title(f"plan {number + 1}, before real step {plan.step + 1}", fontsize=10)
    labels = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    figure.legend(labels.values(), labels.keys(), fontsize=8, loc="outside lower center", ncols=4, frameon=False)
    return figure


@torch.inference_mode()
def episode_strip(world: World, trace: Trace) -> Frames:
    """One picture: every real step's frame, the frame that its plan had imagined for it, and their difference."""
    starts = [plan.step for plan in trace.plans]
    imagined = []
    for plan, until in zip(trace.plans, [*starts[1:], trace.steps], strict=True):
        imagined.append(world.render(plan.latents[: until - plan.step].to(world.device)).cpu().numpy())
    dreams, real = np.concatenate(imagined)[:_SHOWN_STEPS], np.stack(trace.frames[1:])[:_SHOWN_STEPS]
    goal = np.repeat(trace.task.goal_frame[None], len(real), 0)
    return strip({"real": real, "imagined": dreams, "error": error_picture(dreams, real), "goal": goal})


def _ground(axes: Axes, layout: Any) -> None:
    """The map, where there is one, as the ground of a drawing."""
    axes.set_aspect("equal")
    axes.set_axis_off()
    if isinstance(layout, Layout):
        width, height = layout.width + 4 * WALL, layout.height + 4 * WALL
        size = (round(700 * height / max(width, height)), round(700 * width / max(width, height)))
        extent = (-2 * WALL, layout.width + 2 * WALL, -2 * WALL, layout.height + 2 * WALL)
        axes.imshow(draw_map(layout, [], size), extent=extent, alpha=0.75)


def _arrow(axes: Axes, pose: Pose, colour: str) -> None:
    x, y, yaw = pose[0], pose[1], pose[3]
    axes.annotate(
        "",
        xy=(x + 30 * np.cos(yaw), y + 30 * np.sin(yaw)),
        xytext=(x, y),
        arrowprops={"arrowstyle": "-|>", "color": colour, "linewidth": 1.8},
    )


def _gap(pose: NDArray[Any], goal: NDArray[Any]) -> str:
    distance, angle = separation(pose, goal)
    return f"{distance:.0f} units and {angle:.0f} degrees from the goal"
