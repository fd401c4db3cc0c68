"""How good a state space is, on maps it has never trained on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...rollouts.cache import TrainingCache
from ..pose import move
from ..world_model import WorldModel
from .chance import Chance
from .histories import Histories
from .state_samples import StateSamples

HORIZON = 10
SHOWN = (1, 5, 10)


class StateScores:
    """Roll-outs of 10 steps in state space from fixed places of a validation cache, against what was recorded.

    Args:
        world: with a state space.
        cache: of the validation split.
        latents: (N, C, h, w) its frames, encoded.
        samples: roll-outs.
        seed: of their choice.
    """

    def __init__(
        self, world: WorldModel, cache: TrainingCache, latents: NDArray[np.float16], samples: int = 256, seed: int = 0
    ) -> None:
        self._world, self._seed = world, seed
        self._samples = StateSamples(world, cache, latents, HORIZON)
        self._walks = self._samples.draw(0, samples, seed, whole=True)

    @torch.no_grad()
    def score(self) -> dict[str, float]:
        """Scores by name.

        ``state_now``: mean squared difference of the latents that states show to the true ones, over that of the mean
        latents; ``state_1``, ``state_5``, ``state_10``: of states predicted so far ahead, along the true way;
        ``state_10_unremembered``: the same with nothing remembered in the steps ahead; ``state_10_held``: of the last
        real latents held still; ``state_astray`` and ``nominal_astray``: distance in steps from the true place after 10
        steps of predicted motions, and of the motions asked for.
        """
        samples, walks = self._samples, self._walks
        truth = torch.stack([samples.read(walks.at(HORIZON - ahead)) for ahead in range(HORIZON + 1)])
        spread = (truth - truth.mean((0, 1))).square().mean()
        shown, poses = self._roll_out(walks, true_way=True, remember=True)
        blind, _ = self._roll_out(walks, true_way=True, remember=False)
        _, own = self._roll_out(walks, true_way=False, remember=True)

        def share(latents: Tensor, ahead: int) -> float:
            return float((latents - truth[ahead]).square().mean() / spread)

        nominal = poses[0]
        for back in range(HORIZON - 1, -1, -1):
            nominal = move(nominal, samples.motions(walks, back)[0].to(torch.float64))
        length = self._world.actions.step_length
        return {
            "state_now": share(shown[0], 0),
            **{f"state_{ahead}": share(shown[ahead], ahead) for ahead in SHOWN},
            "state_10_unremembered": share(blind[HORIZON], HORIZON),
            "state_10_held": share(truth[0], HORIZON),
            "state_astray": float((own[-1] - poses[-1])[:, :2].norm(dim=1).mean() / length),
            "nominal_astray": float((nominal - poses[-1])[:, :2].norm(dim=1).mean() / length),
        }

    def _roll_out(self, walks: Histories, true_way: bool, remember: bool) -> tuple[list[Tensor], list[Tensor]]:
        """Latents shown by the state at the start and after each step, and the poses."""
        samples, world, head = self._samples, self._world, self._world.state_space
        assert head is not None
        chance = Chance.of(self._seed, 0, len(walks.rows), world.device)
        state, pose = head.encode(samples.seen(walks, HORIZON, chance)), samples.poses(walks.at(HORIZON))
        asked, made = samples.motions(walks, HORIZON)
        deviation = made - asked
        shown, poses = [head.head.decode(state)], [pose]
        length, angle = world.actions.step_length, world.actions.step_angle
        unit = asked.new_tensor([length, length, length, angle, angle])
        for back in range(HORIZON - 1, -1, -1):
            asked, made = samples.motions(walks, back)
            if not true_way:
                made = asked + unit * head.head.correct(state, world.magnitudes(asked), deviation / unit)
            deviation = made - asked
            arrived = samples.poses(walks.at(back)) if true_way else move(pose, made.to(torch.float64))
            recalled = samples.remembered(walks, back, chance, arrived)
            if not remember:
                recalled = replace(recalled, valid=torch.zeros_like(recalled.valid))
            state = world.step_state(state, pose, made, deviation, recalled).state
            pose = arrived
            shown.append(head.head.decode(state))
            poses.append(pose)
        return shown, poses
