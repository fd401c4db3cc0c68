"""Fourth stage: the state space, over latents that the autoencoder made."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ...rollouts.cache import TrainingCache
from ..memory.retrieval import Query, Remembered, retrieve
from ..perception.state_encoder import Surroundings, around
from ..pose import motion_between
from ..state_space import StateSpace
from ..world_model import WorldModel
from .chance import Chance
from .config import StageConfig
from .histories import Histories, draw_histories

UNROLLED = 6
"""Steps predicted in a row, each from the prediction before."""
CONSISTENCY = 0.05
"""Weight of predicting the next state, over that of showing it: with much, states say only what is easily predicted."""
FADING = 0.95
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
            correction = self.module.head.correct(state, world.magnitudes(asked), deviation / steps)
            deviation = made - asked
            recalled = self._remembered(walks, back, chance)
            after = world.step_state(state, self._poses(walks.at(back + 1)), made, deviation, recalled)
            with torch.no_grad():
                aim = self.module.encode(self._seen(walks, back, chance))
            goes_on = torch.from_numpy(~cache.terminated[rows]).to(device, torch.float32)
            losses["next"].append(CONSISTENCY * (after.members - aim.unsqueeze(1)).square().mean())
            losses["motion"].append(F.smooth_l1_loss(asked / steps + correction, made / steps, beta=0.05))
            losses["reward"].append(F.mse_loss(after.reward, torch.from_numpy(cache.rewards[rows]).to(device)))
            losses["continue"].append(F.binary_cross_entropy_with_logits(after.goes_on, goes_on))
            losses["ahead"].append(F.mse_loss(self.module.head.decode(after.state), self._read(rows)))
            state = after.state
        weights = FADING ** torch.arange(UNROLLED, device=device, dtype=torch.float32)
        return {"now": now} | {name: (torch.stack(each) * weights).mean() for name, each in losses.items()}

    def _seen(self, walks: Histories, back: int, chance: Chance) -> Surroundings:
        """What is seen and remembered ``back`` steps before the end of the walks."""
        world, device = self._world, self._world.device
        k, asked = world.config.context, self.module.config.headings
        b = len(walks.rows)
        rows = walks.before(np.broadcast_to(np.arange(-k + 1, 1) - back, (b, k)))
        age = torch.arange(k - 1, -1, -1, device=device).expand(b, k)
        poses = self._poses(rows)
        valid = torch.ones(b, k, dtype=torch.bool, device=device)
        if world.config.remembers and asked * self.module.config.recalled:
            chosen, ages, there = self._retrieve(walks, around(poses[:, -1], asked), back - 1, back, chance)
            rows = np.concatenate([rows, chosen], 1)
            age, valid = torch.cat([age, ages - 1], 1), torch.cat([valid, there], 1)
        return Surroundings(self._read(rows), self._poses(rows), age, valid, poses[:, -1])

    def _remembered(self, walks: Histories, back: int, chance: Chance) -> Surroundings:
        """What is remembered, since the prediction began, of the frame ``back`` steps before the end of the walks."""
        pose = self._poses(walks.at(back))
        if self._world.config.remembers and self.module.config.recalled:
            rows, ages, there = self._retrieve(walks, pose.unsqueeze(1), back, UNROLLED, chance)
        else:
            rows = walks.rows[:, :0]
            ages = torch.from_numpy(rows).to(pose.device)
            there = ages.to(torch.bool)
        return Surroundings(self._read(rows), self._poses(rows), ages, there, pose)

    def _retrieve(
        self, walks: Histories, asked: Tensor, back: int, known: int, chance: Chance
    ) -> tuple[NDArray[np.int64], Tensor, Tensor]:
        """Frames for poses ``asked`` (B, n, 5) about to be seen ``back`` steps before the end of the walks, of those up
        to ``known`` steps before it: rows (B, n · k), ages and which there are."""
        (b, n), device = asked.shape[:2], asked.device
        last = torch.from_numpy(walks.target).to(device)
        now = (last - back).repeat_interleave(n)
        query = Query(asked.flatten(0, 1), now, chance.counter.repeat_interleave(n), skip=self._world.config.context)
        past = self._poses(walks.rows).repeat_interleave(n, 0)
        times = torch.arange(past.shape[1], device=device).expand(len(past), -1)
        there = times <= (last - known).repeat_interleave(n).unsqueeze(1)
        strategy = self._world.config.strategy
        chosen = retrieve(strategy, query, Remembered(past, times, there), self.module.config.recalled)
        columns = chosen.columns.unflatten(0, (b, n)).flatten(1)
        rows = np.take_along_axis(walks.rows, columns.cpu().numpy(), 1)
        return rows, (last - back).unsqueeze(1) - columns, chosen.valid.unflatten(0, (b, n)).flatten(1)

    def _motions(self, walks: Histories, back: int) -> tuple[Tensor, Tensor]:
        """(B, 5) the motions asked for and made on the way to the frame ``back`` steps before the end."""
        rows = walks.at(back)
        asked = self._world.actions.nominal_motion(torch.from_numpy(self._cache.actions[rows]).to(self._world.device))
        return asked, motion_between(self._poses(walks.at(back + 1)), self._poses(rows)).to(torch.float32)

    def _poses(self, rows: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(self._cache.poses[rows]).to(self._world.device)

    def _read(self, rows: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(self._latents[rows]).to(self._world.device, torch.float32)
