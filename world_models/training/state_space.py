"""Fourth stage: the state space, over latents that the autoencoder made."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ...rollouts.cache import TrainingCache
from ..memory.retrieval import Query, Remembered, retrieve
from ..perception.state_encoder import around
from ..pose import motion_between
from ..state_space import StateSpace, Surroundings
from ..world_model import WorldModel
from .chance import Chance
from .config import StageConfig
from .histories import Histories, draw_histories

UNROLLED = 5
"""Steps predicted in a row, each from the prediction before."""
CONSISTENCY = 0.05
"""Weight of predicting the next state, over that of showing it. With 0.5, states say only what is easily predicted:
after 370 steps, 12 % of what is seen."""
FADING = 0.9
"""What a step further ahead counts, over the step before."""


class StateStage:
    """Multi-step prediction in state space (TD-MPC2): of the states that later frames are encoded to, of motions,
    rewards and ends, and of the latents of what is seen, which keep the states from saying nothing.

    The states to predict are given (their gradient is stopped); memory gives, in training as in use, only frames from
    before those that a state sees anyway.

    Args:
        world: the model; all but its state space is left alone.
        cache: recorded experience.
        latents: (N, C, h, w) float16 latents of the cache's frames.
        config: batch size.
        seed: of every random choice.
    """

    name = "state"

    def __init__(
        self, world: WorldModel, cache: TrainingCache, latents: NDArray[np.float16], config: StageConfig, seed: int
    ) -> None:
        assert world.state_space is not None
        self._world, self._cache, self._latents, self._config, self._seed = world, cache, latents, config, seed
        self.module: StateSpace = world.state_space

    def loss(self, step: int) -> dict[str, Tensor]:
        """Losses of one batch of recorded walks."""
        world, cache, b, device = self._world, self._cache, self._config.batch_size, self._world.device
        chance = Chance.of(self._seed, step, b, device)
        straight = np.zeros(b, bool)
        walks = draw_histories(cache, world.config.context + UNROLLED, step, b, self._seed, straight, np.zeros(b))
        spec = world.actions
        steps = torch.tensor([spec.step_length] * 3 + [spec.step_angle] * 2, device=device)
        state = self.module.encode(self._seen(walks, UNROLLED, chance))
        now = F.mse_loss(self.module.head.decode(state), self._read(walks.at(UNROLLED)))
        asked, made = self._motions(walks, UNROLLED)
        deviation = made - asked
        losses: dict[str, list[Tensor]] = {name: [] for name in ("next", "motion", "reward", "continue", "ahead")}
        for ahead in range(1, UNROLLED + 1):
            back = UNROLLED - ahead
            rows = walks.at(back)
            asked, made = self._motions(walks, back)
            after = world.step_state(state, deviation, asked)
            with torch.no_grad():
                aim = self.module.encode(self._seen(walks, back, chance))
            goes_on = torch.from_numpy(~cache.terminated[rows]).to(device, torch.float32)
            losses["next"].append(CONSISTENCY * (after.members - aim.unsqueeze(1)).square().mean())
            losses["motion"].append(F.smooth_l1_loss(asked / steps + after.correction, made / steps, beta=0.05))
            losses["reward"].append(F.mse_loss(after.reward, torch.from_numpy(cache.rewards[rows]).to(device)))
            losses["continue"].append(F.binary_cross_entropy_with_logits(after.goes_on, goes_on))
            losses["ahead"].append(F.mse_loss(self.module.head.decode(after.state), self._read(rows)))
            state, deviation = after.state, made - asked
        weights = FADING ** torch.arange(UNROLLED, device=device, dtype=torch.float32)
        return {"now": now} | {name: (torch.stack(each) * weights).mean() for name, each in losses.items()}

    def _seen(self, walks: Histories, back: int, chance: Chance) -> Surroundings:
        """What is seen and remembered ``back`` steps before the end of the walks."""
        world, device = self._world, self._world.device
        k, asked, each = world.config.context, self.module.config.headings, self.module.config.recalled
        b = len(walks.rows)
        recent = walks.before(np.broadcast_to(np.arange(-k + 1, 1) - back, (b, k)))
        age = torch.arange(k - 1, -1, -1, device=device).expand(b, k)
        poses = self._poses(recent)
        valid = torch.ones(b, k, dtype=torch.bool, device=device)
        if not world.config.remembers or not asked * each:
            return Surroundings(self._read(recent), poses, age, valid, poses[:, -1])
        now = torch.from_numpy(walks.target - back + 1).to(device)
        past = self._poses(walks.rows).repeat_interleave(asked, 0)
        times = torch.arange(past.shape[1], device=device).expand(len(past), -1)
        asking = now.repeat_interleave(asked)
        query = Query(
            around(poses[:, -1], asked).flatten(0, 1), asking, chance.counter.repeat_interleave(asked), skip=k
        )
        there = times < asking.unsqueeze(1)
        chosen = retrieve(world.config.strategy, query, Remembered(past, times, there), each)
        columns = chosen.columns.unflatten(0, (b, asked)).flatten(1)
        rows = np.take_along_axis(walks.rows, columns.cpu().numpy(), 1)
        return Surroundings(
            torch.cat([self._read(recent), self._read(rows)], 1),
            torch.cat([poses, self._poses(rows)], 1),
            torch.cat([age, now.unsqueeze(1) - 1 - columns], 1),
            torch.cat([valid, chosen.valid.unflatten(0, (b, asked)).flatten(1)], 1),
            poses[:, -1],
        )

    def _motions(self, walks: Histories, back: int) -> tuple[Tensor, Tensor]:
        """(B, 5) the motions asked for and made on the way to the frame ``back`` steps before the end."""
        rows = walks.at(back)
        asked = self._world.actions.nominal_motion(torch.from_numpy(self._cache.actions[rows]).to(self._world.device))
        return asked, motion_between(self._poses(walks.at(back + 1)), self._poses(rows)).to(torch.float32)

    def _poses(self, rows: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(self._cache.poses[rows]).to(self._world.device)

    def _read(self, rows: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(self._latents[rows]).to(self._world.device, torch.float32)
