"""Planning inside a learned world: solvers, objectives, and the policy that acts on their plans."""

from __future__ import annotations

from . import objectives
from .constraints import Constraint, KeepAway, Penalty, Sure, Within
from .drafting import DraftThenRefine
from .gradient import GradientPlanner
from .interop import StableCost, minimise
from .lagrangian import Lagrangian
from .mpc import MPC
from .objectives import GoalFrame, GoalPose, Objective, Reward, Uncertainty, WeightedSum
from .pictures import GoalPicture
from .planner import IterationReport, Plan, Planner
from .policy_search import PolicySearch
from .rollout import RolloutTree
from .rollout_batch import RolloutBatch
from .solver import Found, Solver
from .solvers import CEM, ICEM, MPPI, CategoricalCEM, PredictiveSampling, RandomShooting
from .tree_search import TreeSearch
from .values import Policy, Prior, TerminalValue, Value
from .ways import Novelty, PathLength

__all__ = [
    "CEM",
    "ICEM",
    "MPC",
    "MPPI",
    "CategoricalCEM",
    "Constraint",
    "DraftThenRefine",
    "Found",
    "GoalFrame",
    "GoalPicture",
    "GoalPose",
    "GradientPlanner",
    "IterationReport",
    "KeepAway",
    "Lagrangian",
    "Novelty",
    "Objective",
    "PathLength",
    "Penalty",
    "Plan",
    "Planner",
    "Policy",
    "PolicySearch",
    "PredictiveSampling",
    "Prior",
    "RandomShooting",
    "Reward",
    "RolloutBatch",
    "RolloutTree",
    "Solver",
    "StableCost",
    "Sure",
    "TerminalValue",
    "TreeSearch",
    "Uncertainty",
    "Value",
    "WeightedSum",
    "Within",
    "minimise",
    "objectives",
]
