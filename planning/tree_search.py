"""`TreeSearch`: plans of keys, grown step by step where they promise most."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from torch import Tensor

from ..errors import ConfigError
from ..world_models.state import WorldState
from ..world_models.world import ImaginedStep, World
from .objectives import Objective
from .planner import IterationReport, Plan, Planner, Question
from .problem import Imagined, refuse_hopeless
from .rollout_batch import RolloutBatch
from .solver import pick, resting
from .values import Prior

Choice = Literal["puct", "best-first"]
"""``puct``: Monte-Carlo tree search with the policy's prior (AlphaZero; Silver et al. 2018): the mean of what a branch
led to, and a bonus for what the prior likes and was little tried. ``best-first``: the cheapest beginning of all goes
on."""


@dataclass
class _Node:
    """A beginning of a plan: ``row`` of what was imagined for its last action."""

    row: int
    actions: tuple[int, ...] = ()
    rows: tuple[int, ...] = ()
    cost: float = 0.0
    prior: float = 1.0
    visits: int = 0
    total: float = 0.0
    children: list[_Node] = field(default_factory=list)
    closed: bool = False
    """Nothing is left to try below."""


@dataclass(frozen=True)
class TreeSearch(Planner):
    """Grows a tree of key sequences for every world; `WorldState.fork` makes its branches.

    An expansion imagines all keys after one beginning of a plan, for all B worlds in one call. A beginning is judged by
    the objective as if the walker then stood still for nothing, so every objective serves; `values.TerminalValue` makes
    it see past its end. At last the best beginnings, resting afterwards, are imagined in full and judged again.

    Attributes:
        horizon: steps that a plan has, the most that the tree is deep.
        expansions: how many, for each world.
        choice: see `Choice`.
        exploration: weight of PUCT's bonus, 0 or more; costs are scaled to [0, 1].
        prior: what keys are worth trying; None for all alike. The world needs a state space for it.
        elites: beginnings to imagine in full and to report.
        max_batch: worlds to imagine at a time, when judging in full.
        budget: most steps to imagine for one world and plan; expansions that do not fit are left out.

    Raises:
        ConfigError: a field outside its range.
    """

    horizon: int = 10
    expansions: int = 32
    choice: Choice = "puct"
    exploration: float = 0.5
    prior: Prior | None = None
    elites: int = 4
    max_batch: int = 256
    budget: int | None = None

    def __post_init__(self) -> None:
        for name in ("horizon", "expansions", "elites", "max_batch"):
            if getattr(self, name) < 1:
                raise ConfigError(f"A tree search needs {name} >= 1; got {getattr(self, name)}.")
        if self.exploration < 0:
            raise ConfigError(f"exploration is 0 or more; got {self.exploration}.")
        if self.choice not in get_args(Choice):
            raise ConfigError(f"choice is one of {', '.join(get_args(Choice))}; got {self.choice!r}.")

    def affordable(self, keys: int) -> int:
        """Expansions within the budget, in a world of that many keys.

        Raises:
            ConfigError: not even one.
        """
        if self.budget is None:
            return self.expansions
        fitting = (self.budget - (self.elites + 1) * self.horizon) // keys
        if fitting < 1:
            raise ConfigError(
                f"A budget of {self.budget} model steps is too small for one expansion of {keys} keys and "
                f"{self.elites} elites of {self.horizon} steps, which take {keys + (self.elites + 1) * self.horizon}."
            )
        return min(self.expansions, fitting)

    def answer(self, question: Question) -> Plan:
        world, state, objective = question.world, question.state, question.objective
        if world.actions.kind != "discrete":
            raise ConfigError(
                "A tree search chooses among keys, and this world's actions are vectors; use CEM or MPPI."
            )
        forest = _Forest(self, world, state, objective)
        history: list[Tensor] = []
        for iteration in range(self.affordable(world.actions.n)):
            grown = forest.grow()
            if grown is None:
                break
            history.append(forest.least())
            report = IterationReport(iteration, *grown, history[-1], forest.model_steps)
            if question.on_iteration is not None and question.on_iteration(report):
                break
        beginnings = forest.beginnings(self.elites)
        if question.previous is not None:
            left = question.previous.actions[:, question.executed : question.executed + self.horizon]
            rest = resting(world.actions, left).expand(len(left), self.horizon - left.shape[1])
            usable = question.previous.cost.isfinite().view(-1, 1, 1)
            last = torch.where(usable, torch.cat([left, rest], 1).unsqueeze(1), beginnings[:, -1:])
            beginnings = torch.cat([beginnings[:, : max(1, self.elites - 1)], last], 1)
        problem = Imagined(world, state, objective, self.max_batch)
        cost = problem.cost(beginnings)
        order = cost.argsort(dim=1, stable=True)[:, : self.elites]
        elites, costs = pick(beginnings, order), cost.gather(1, order)
        refuse_hopeless(costs[:, 0])
        best = problem.tree.roll_out(elites[:, :1], latents=True)
        assert best.latents is not None
        return Plan(
            actions=elites[:, 0],
            cost=costs[:, 0],
            costs_per_iteration=torch.stack(history, 1),
            elites=elites,
            elite_costs=costs,
            poses=best.poses[:, 0],
            latents=best.latents[:, 0],
            uncertainty=best.uncertainty[:, 0],
            model_steps=forest.model_steps + problem.model_steps,
            model_calls=forest.model_calls + problem.model_calls,
        )


class _Forest:
    """A tree for each of B worlds, and all that was imagined for them, row by row."""

    def __init__(self, search: TreeSearch, world: World, state: WorldState, objective: Objective) -> None:
        self._search, self._world, self._objective = search, world, objective
        self._start = state
        self._states = [state]
        self._steps: dict[str, list[Tensor]] = {name: [] for name in _JUDGED}
        self._vectors: list[Tensor] = []
        self._roots = [_Node(row) for row in range(state.batch_size)]
        self._nodes: list[list[_Node]] = [[root] for root in self._roots]
        self.model_steps = self.model_calls = 0

    def grow(self) -> tuple[Tensor, Tensor] | None:
        """Imagine all keys after one beginning in each world: plans (B, K, H) and costs (B, K), None at the end."""
        paths = [self._select(b) for b in range(len(self._roots))]
        if all(path is None for path in paths):
            return None
        # A world whose tree is complete imagines its root's keys again, so that the batch stays whole.
        done = [path is None for path in paths]
        leaves = [self._roots[b] if path is None else path[-1] for b, path in enumerate(paths)]
        n, b = self._world.actions.n, len(leaves)
        before = self._at([leaf.row for leaf in leaves])
        prior = self._prior(before)
        keys = torch.arange(n, device=before.device).repeat(b)
        after, step = self._world.imagine(before.fork(n), keys)
        self.model_steps, self.model_calls = self.model_steps + after.batch_size, self.model_calls + 1
        first = sum(s.batch_size for s in self._states)
        self._keep(after, step)
        children = [
            [
                _Node(row := first + i * n + key, (*leaf.actions, key), (*leaf.rows, row), prior=float(prior[i, key]))
                for key in range(n)
            ]
            for i, leaf in enumerate(leaves)
        ]
        rollouts = self._rollouts(children)
        cost = self._objective.cost(rollouts).to(torch.float64)
        cost = torch.where(cost.isfinite(), cost, torch.inf)
        for i, path in enumerate(paths):
            if path is not None and not done[i]:
                self._add(i, path, children[i], cost[i].tolist())
        return rollouts.actions, cost

    def least(self) -> Tensor:
        """(B,) float64, the least cost of any beginning.

        Raises:
            WorldloopError: a world in which there is no finite one.
        """
        least = torch.tensor(
            [min((n.cost for n in nodes[1:]), default=math.inf) for nodes in self._nodes], dtype=torch.float64
        )
        refuse_hopeless(least)
        return least.to(self._start.device)

    def beginnings(self, n: int) -> Tensor:
        """The n cheapest beginnings (B, n, H), longer ones first among equals, resting at their end."""
        chosen = []
        for nodes in self._nodes:
            ranked = sorted(nodes[1:], key=lambda node: (node.cost, len(node.actions)))[:n]
            ranked += [ranked[0]] * (n - len(ranked))
            chosen.append([self._padded(node.actions) for node in ranked])
        return torch.tensor(chosen, device=self._start.device)

    def _padded(self, actions: tuple[int, ...]) -> list[int]:
        rest = int(resting(self._world.actions, torch.zeros(1, dtype=torch.int64)))
        return [*actions, *[rest] * (self._search.horizon - len(actions))]

    def _select(self, world: int) -> list[_Node] | None:
        """The way from the root to the beginning to go on from; None where the tree is complete."""
        root = self._roots[world]
        if root.closed:
            return None
        if self._search.choice == "best-first" and root.children:
            leaf = min((n for n in self._nodes[world] if not n.children and not n.closed), key=lambda n: n.cost)
            path = [root]
            for key in leaf.actions:
                path.append(path[-1].children[key])
            return path
        low, high = self._range(world)
        path = [root]
        while path[-1].children:
            parent = path[-1]
            path.append(
                max((c for c in parent.children if not c.closed), key=lambda c: self._promise(c, parent, low, high))
            )
        return path

    def _promise(self, node: _Node, parent: _Node, low: float, high: float) -> float:
        """PUCT: scaled mean of what the branch led to, and the bonus."""
        mean = node.total / node.visits if node.visits else node.cost
        bonus = self._search.exploration * node.prior * math.sqrt(1 + parent.visits) / (1 + node.visits)
        return (high - mean) / (high - low) + bonus

    def _range(self, world: int) -> tuple[float, float]:
        costs = [n.cost for n in self._nodes[world][1:] if math.isfinite(n.cost)]
        low, high = min(costs, default=0.0), max(costs, default=1.0)
        return low, high if high > low else low + 1

    def _add(self, world: int, path: list[_Node], children: list[_Node], costs: list[float]) -> None:
        leaf = path[-1]
        leaf.children = children
        for child, cost in zip(children, costs, strict=True):
            child.cost = cost
            child.closed = len(child.actions) >= self._search.horizon or not math.isfinite(cost)
        self._nodes[world] += children
        best = min(costs)
        for node in reversed(path):
            node.visits += 1
            # A branch in which everything is infinite is closed below, and its mean is not asked for.
            node.total += best if math.isfinite(best) else 0.0
            node.closed = all(child.closed for child in node.children)

    def _at(self, rows: list[int]) -> WorldState:
        """The states of rows, one for each world."""
        found = []
        for row in rows:
            chunk = 0
            while row >= self._states[chunk].batch_size:
                row -= self._states[chunk].batch_size
                chunk += 1
            found.append(self._states[chunk][row])
        return WorldState.cat(found)

    def _prior(self, before: WorldState) -> Tensor:
        """(B, K) probabilities of the keys."""
        n = self._world.actions.n
        if self._search.prior is None:
            return torch.full((before.batch_size, n), 1 / n)
        return self._search.prior.probabilities(self._encoded(before)).detach().cpu()

    def _encoded(self, state: WorldState) -> Tensor:
        if not self._world.state_size:
            raise ConfigError("This world has no state vectors, which policies and values need; train its state space.")
        return self._world.encode_state(state)

    def _keep(self, after: WorldState, step: ImaginedStep) -> None:
        self._states.append(after)
        for name, kept in self._steps.items():
            kept.append(getattr(step, name))
        if self._objective.needs_vectors:
            self._vectors.append(self._encoded(after))

    def _rollouts(self, children: list[list[_Node]]) -> RolloutBatch:
        """What beginnings (B, K) lead to, standing still at their end."""
        horizon, offset = self._search.horizon, len(self._roots)
        lengths = torch.tensor([[len(node.rows) for node in nodes] for nodes in children])
        rows = torch.tensor(
            [[[*node.rows, *[node.rows[-1]] * (horizon - len(node.rows))] for node in nodes] for nodes in children]
        )
        rows, lengths = (x.to(self._start.device) for x in (rows - offset, lengths))
        still = torch.arange(horizon, device=rows.device) >= lengths.unsqueeze(-1)
        along = {name: torch.cat(kept)[rows] for name, kept in self._steps.items() if self._wanted(name)}
        return RolloutBatch(
            actions=torch.tensor([[self._padded(node.actions) for node in nodes] for nodes in children]).to(
                rows.device
            ),
            poses=along["pose"],
            reward=along["reward"].masked_fill(still, 0.0),
            continues=along["continues"].masked_fill(still, 1.0),
            uncertainty=along["uncertainty"],
            latents=along.get("latents"),
            vectors=torch.cat(self._vectors)[rows[:, :, -1]] if self._vectors else None,
            start=self._start.pose,
            lengths=lengths,
        )

    def _wanted(self, name: str) -> bool:
        return name != "latents" or self._objective.needs_latents


_JUDGED = ("pose", "reward", "continues", "uncertainty", "latents")
