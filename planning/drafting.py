"""`DraftThenRefine`: many candidates where imagining is cheap, the best of them where it is good."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..errors import ConfigError
from ..world_models.world import World
from .planner import Plan, Planner, Question
from .problem import Imagined, refuse_hopeless
from .solver import pick


@dataclass(frozen=True)
class DraftThenRefine(Planner):
    """Plans in ``draft``, and lets the world it is asked about, with its memory, choose among the best.

    Example:
        >>> video, fast = load_world(name), load_world(name, imagination="state")
        >>> mpc = MPC(video, DraftThenRefine(fast, ICEM(candidates=512, elites=16)), objective)

    The plan's cost, elites, poses and latents are those of the world asked about, as are its model steps; the draft's
    steps are counted in ``draft_steps``, and ``costs_per_iteration`` are the draft's.

    Attributes:
        draft: the same world with cheaper imagination; states are handed to its `World.adopt`.
        planner: what plans there; its elites are what is chosen from.
        keep: how many of them, best first; None for all.
        max_batch: worlds to imagine at a time while choosing.
    """

    draft: World
    planner: Planner
    keep: int | None = None
    max_batch: int = 256

    def __post_init__(self) -> None:
        if (self.keep is not None and self.keep < 1) or self.max_batch < 1:
            raise ConfigError(f"keep and max_batch are at least 1; got {self.keep} and {self.max_batch}.")

    @property
    def horizon(self) -> int:
        return self.planner.horizon

    @property
    def futures(self) -> int:
        return self.planner.futures

    def answer(self, question: Question) -> Plan:
        world, state = question.world, question.state
        drafted = self.planner.answer(replace(question, world=self.draft, state=self.draft.adopt(state)))
        problem = Imagined(world, world.adopt(state), question.objective, self.max_batch, self.futures)
        cost = problem.cost(drafted.elites[:, : self.keep])
        order = cost.argsort(dim=1, stable=True)
        elites, costs = pick(drafted.elites, order), cost.gather(1, order)
        refuse_hopeless(costs[:, 0])
        best = problem.tree.roll_out(elites[:, :1], latents=True)
        assert best.latents is not None
        return Plan(
            actions=elites[:, 0],
            cost=costs[:, 0],
            costs_per_iteration=drafted.costs_per_iteration,
            elites=elites,
            elite_costs=costs,
            poses=best.poses[:, 0],
            latents=best.latents[:, 0],
            uncertainty=best.uncertainty[:, 0],
            model_steps=problem.model_steps,
            model_calls=problem.model_calls,
            draft_steps=drafted.model_steps,
        )
