"""Roll-outs that gradients flow through, for planners that follow them.

Vectors are imagined as they are. Keys are pressed in shares: the camera moves by the mean of their motions, which a
world with a state space corrects as it would correct a key's; walls are felt there and nowhere else.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from ..errors import WorldloopError
from ..world_models.pose import move
from ..world_models.state import WorldState
from ..world_models.world import ImaginedStep, World
from .objectives import Objective
from .rollout_batch import RolloutBatch


@runtime_checkable
class StepsStates(Protocol):
    """A world with a state space that gradients flow through, such as `WorldModel`."""

    def state_motion(self, state: WorldState, asked: Tensor) -> Tensor:
        """Motion (B, 5) made where motions ``asked`` (B, 5) are asked for."""


def soft_costs(
    world: World, state: WorldState, objective: Objective, plans: Tensor, max_batch: int
) -> tuple[Tensor, Tensor, int]:
    """Cost (B, N), its gradient like ``plans``, and the calls of the world it took.

    Args:
        world: where to imagine; anything goes, but a gradient comes only through what is differentiable.
        state: B worlds.
        objective: what to achieve.
        plans: (B, N, H, n) vectors, or (B, N, H, K) shares of keys that sum to 1.
        max_batch: worlds to imagine at a time.

    Raises:
        WorldloopError: no gradient reaches the plans.
    """
    at_once = max(1, max_batch // len(plans))
    costs, gradients, calls = [], [], 0
    for begin in range(0, plans.shape[1], at_once):
        # A caller may plan under inference mode, whose tensors take no part in gradients; copies do.
        with torch.inference_mode(False), torch.enable_grad():
            x = plans[:, begin : begin + at_once].clone().requires_grad_()
            cost = objective.cost(soft_roll_out(world, state, objective, x))
            if not cost.requires_grad:
                raise WorldloopError(
                    "This objective has no gradient in this world; choose a solver that samples, such as CEM."
                )
            (gradient,) = torch.autograd.grad(cost.sum(), x)
        costs.append(cost.detach())
        gradients.append(gradient)
        calls += plans.shape[2]
    return torch.cat(costs, 1), torch.cat(gradients, 1), calls


def soft_roll_out(world: World, state: WorldState, objective: Objective, plans: Tensor) -> RolloutBatch:
    """What plans (B, N, H, n) of vectors, or (B, N, H, K) of shares of keys, lead to, for gradients to flow back."""
    b, n, horizon = plans.shape[:3]
    at = state[torch.arange(b, device=plans.device).repeat_interleave(n)]
    steps: list[ImaginedStep] = []
    for t in range(horizon):
        actions = plans[:, :, t].flatten(0, 1)
        at, step = world.imagine(at, actions) if world.actions.kind == "box" else _press(world, at, actions)
        steps.append(step)

    def along(name: str) -> Tensor:
        flat = torch.stack([getattr(step, name) for step in steps], 1)
        return flat.view(b, n, *flat.shape[1:])

    return RolloutBatch(
        actions=plans if world.actions.kind == "box" else plans.argmax(-1),
        poses=along("pose"),
        reward=along("reward"),
        continues=along("continues"),
        uncertainty=along("uncertainty"),
        latents=along("latents") if objective.needs_latents else None,
        vectors=world.encode_state(at).unflatten(0, (b, n)) if objective.needs_vectors else None,
        start=state.pose.clone(),
    )


def _press(world: World, state: WorldState, shares: Tensor) -> tuple[WorldState, ImaginedStep]:
    """One step with keys pressed in shares (M, K)."""
    spec = world.actions
    motion = shares.to(torch.float32) @ torch.tensor(spec.motion, dtype=torch.float32, device=shares.device)
    if isinstance(world, StepsStates) and world.state_size:
        motion = world.state_motion(state, motion)
    return world.imagine(state, shares.argmax(-1), move(state.pose, motion.to(torch.float64)))
