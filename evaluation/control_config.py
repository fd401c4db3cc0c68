"""What is asked of planners that act in the real world: which goals, how hard to search, what counts as success."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..errors import ConfigError
from ..rollouts.splits import seed_range
from .goal_forms import AsPicture, AsPose, AsRecorded, AsReward, GoalForm, Likeness
from .goal_object import OBJECT_REACHED
from .goals import Place, Reached
from .planning_methods import Search, SolverName, check_choice

GoalName = Literal["frame", "pose", "index", "ago", "reward"]


@dataclass(frozen=True)
class ControlConfig:
    """What every way of acting is asked alike."""

    goal: GoalName = "frame"
    """What the planner is given: only the picture seen at the goal (frame); its pose, which asks little of a world, as
    one that knows no more than what its actions mean can plan for it; picture and pose of a frame seen before the start
    (index; ago, by how many steps back); or nothing, and the goal is the object that the task rewards (reward)."""
    episodes: int = 50
    """Goals, each on a held-out map of its own."""
    objective: Likeness = "mse"
    """How imagined pictures are compared with the goal's: mse or cosine of their latents, or mse of drawn pixels."""
    uncertainty_weight: float = 0.0
    """Cost of the world's uncertainty, beside that of being away from the goal."""
    horizon: int = 8
    """Steps looked ahead."""
    candidates: int = 32
    """Plans tried in each iteration."""
    iterations: int = 2
    """How often they are refined."""
    elites: int = 8
    """Best plans learned from in each iteration."""
    replan_interval: int = 2
    """Real steps taken of each plan before planning anew."""
    nearest: int = 6
    """Fewest steps of the known way to a goal."""
    farthest: int = 12
    """Most steps of the known way to a goal, and …"""
    budget: int = 20
    """… most real steps an episode, for everyone alike."""
    behind_farthest: int = 20
    """The same where goals lie behind walls: most steps of the known way …"""
    behind_budget: int = 40
    """… and most real steps."""
    radius: float = 30.0
    """A goal is reached within this distance, in world units …"""
    heading: float = 23.0
    """… and this angle between the viewing directions, in degrees."""
    context: int = 16
    """Real frames seen before the start, itself included …"""
    exploration: int = 100
    """… and at most so many where goals lie behind walls, at least half of them."""
    ago: int = 30
    """With goal "ago": how many steps before the start the walker was there."""
    split: Literal["validation", "test"] = "validation"
    """Which held-out maps. Test maps are for reports only."""
    batch: int = 25
    """Episodes planned for and acted in at once, each in a real environment of its own."""
    seed: int = 0
    """Of maps, goals, candidates and imagination."""

    def __post_init__(self) -> None:
        for name in ("episodes", "budget", "behind_budget", "context", "exploration", "batch", "replan_interval"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}.")
        check_choice(self.goal, GoalName, "A goal's form")
        check_choice(self.objective, Likeness, "An objective")
        if self.split not in ("validation", "test"):
            raise ConfigError(f"Planning is tried on 'validation' or 'test' maps, not on {self.split!r}.")
        if self.replan_interval > self.horizon:
            raise ConfigError(
                f"replan_interval must be at most the horizon of {self.horizon}, got {self.replan_interval}."
            )

    def search(self, solver: SolverName) -> Search:
        """How hard to search with ``solver``."""
        return Search(solver, self.horizon, self.candidates, self.iterations, self.elites, self.seed)

    @property
    def form(self) -> GoalForm:
        """How a planner is told its goal."""
        if self.goal == "frame":
            return AsPicture(self.objective)
        if self.goal == "pose":
            return AsPose()
        if self.goal == "reward":
            return AsReward()
        return AsRecorded(self.objective, self.ago if self.goal == "ago" else None)

    @property
    def reached(self) -> Reached:
        """When a goal counts as reached."""
        return OBJECT_REACHED if self.goal == "reward" else Reached(self.radius, self.heading)

    def seen(self, place: Place) -> int:
        """Real frames seen before the start, itself included; at most, where goals lie behind walls."""
        return self.exploration if place == "behind" else self.context

    def steps(self, place: Place) -> tuple[int, int]:
        """Fewest and most steps of the known way to a goal."""
        return self.nearest, self.behind_farthest if place == "behind" else self.farthest

    def real_steps(self, place: Place) -> int:
        """Most real steps an episode."""
        return self.behind_budget if place == "behind" else self.budget

    def check_place(self, place: Place) -> None:
        """Refuse a place where goals of this form cannot lie, by a `ConfigError`."""
        check_choice(place, Place, "A goal's place")
        if self.goal in ("index", "ago") and place != "behind":
            raise ConfigError(f"Goals given by {self.goal!r} were seen before: place is 'behind', not {place!r}.")

    def maps(self) -> list[int]:
        """Map seeds: one for each episode, then as many again for those on which there is no goal as asked."""
        rng, seeds = np.random.default_rng(self.seed), seed_range(self.split)
        chosen = rng.choice(seeds, self.episodes, replace=False).tolist()
        spare = rng.choice(seeds, 2 * self.episodes, replace=False).tolist()
        maps: list[int] = chosen + [seed for seed in spare if seed not in chosen][: self.episodes]
        return maps
