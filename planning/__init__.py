"""Planning inside a learned world: solvers, objectives, and the policy that acts on their plans."""

from __future__ import annotations

from . import objectives
from .mpc import MPC
from .objectives import GoalFrame, GoalPose, Objective, Reward, Uncertainty
from .rollout import RolloutBatch, RolloutTree
from .solver import Plan, Solver
from .solvers import CEM, MPPI, RandomShooting

__all__ = [
    "CEM",
    "MPC",
    "MPPI",
    "GoalFrame",
    "GoalPose",
    "Objective",
    "Plan",
    "RandomShooting",
    "Reward",
    "RolloutBatch",
    "RolloutTree",
    "Solver",
    "Uncertainty",
    "objectives",
]
