"""What the state space is trained and scored on: recorded walks, what is seen on them, and what is remembered."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...rollouts.cache import TrainingCache
from ..memory.retrieval import Query, Remembered, retrieve
from ..perception.state_encoder import StateConfig, Surroundings, around
from ..pose import motion_between
from ..world_model import WorldModel
from .chance import Chance
from .histories import Histories, draw_histories


class StateSamples:
    """Walks of which the last ``ahead`` steps are to be predicted, in one go, from what was seen before them.

    Predictions begin at any frame but the last of its episode, and may lead beyond that one: what ends an episode is to
    be foreseen from all distances. What was seen before may be a single frame.

    Memory gives, here as in use, only frames from before those that a state sees anyway, and in a prediction only those
    from before it began.

    Args:
        world: with a state space.
        cache: recorded experience.
        latents: (N, C, h, w) float16 latents of the cache's frames.
        ahead: steps.
    """

    def __init__(self, world: WorldModel, cache: TrainingCache, latents: NDArray[np.float16], ahead: int) -> None:
        assert world.config.state is not None
        self._world, self._cache, self._latents, self.ahead = world, cache, latents, ahead
        self._config: StateConfig = world.config.state

    def draw(self, step: int, batch_size: int, seed: int, whole: bool = False) -> Histories:
        """B walks, a function of the arguments alone; if ``whole``, of those that have all steps and recent frames."""
        none = np.zeros(batch_size)
        before, further = (self._world.config.context + self.ahead, 0) if whole else (1, self.ahead - 1)
        return draw_histories(self._cache, before, step, batch_size, seed, none.astype(bool), none, further)

    def seen(self, walks: Histories, back: int, chance: Chance) -> Surroundings:
        """What is seen and remembered ``back`` steps before the end of the walks."""
        world, device = self._world, self._world.device
        k, asked = world.config.context, self._config.headings
        b = len(walks.rows)
        rows = walks.before(np.broadcast_to(np.arange(-k + 1, 1) - back, (b, k)))
        age = torch.arange(k - 1, -1, -1, device=device).expand(b, k)
        poses = self.poses(rows)
        valid = torch.from_numpy(np.stack([walks.exists(back + n) for n in range(k - 1, -1, -1)], 1)).to(device)
        if world.config.remembers and asked * self._config.recalled:
            chosen, ages, there = self._retrieve(walks, around(poses[:, -1], asked), back - 1, back, chance)
            rows = np.concatenate([rows, chosen], 1)
            age, valid = torch.cat([age, ages - 1], 1), torch.cat([valid, there], 1)
        return Surroundings(self.read(rows), self.poses(rows), age, valid, poses[:, -1])

    def remembered(
        self, walks: Histories, back: int, chance: Chance, pose: Tensor | None = None
    ) -> Surroundings:
        """What is remembered, since the prediction began, of the frame ``back`` steps before the end of the walks.

        Args:
            walks: B of them.
            back: steps before their end.
            chance: of a strategy that draws lots.
            pose: (B, 5) of another frame to ask about instead.
        """
        pose = self.poses(walks.at(back)) if pose is None else pose
        if self._world.config.remembers and self._config.recalled:
            rows, ages, there = self._retrieve(walks, pose.unsqueeze(1), back, self.ahead, chance)
        else:
            rows = walks.rows[:, :0]
            ages = torch.from_numpy(rows).to(pose.device)
            there = ages.to(torch.bool)
        return Surroundings(self.read(rows), self.poses(rows), ages, there, pose)

    def _retrieve(
        self, walks: Histories, asked: Tensor, back: int, known: int, chance: Chance
    ) -> tuple[NDArray[np.int64], Tensor, Tensor]:
        """Frames for poses ``asked`` (B, n, 5) about to be seen ``back`` steps before the end of the walks, of those up
        to ``known`` steps before it: rows (B, n · k), ages and which there are."""
        (b, n), device = asked.shape[:2], asked.device
        last = torch.from_numpy(walks.target).to(device)
        now = (last - back).repeat_interleave(n)
        query = Query(asked.flatten(0, 1), now, chance.counter.repeat_interleave(n), skip=self._world.config.context)
        past = self.poses(walks.rows).repeat_interleave(n, 0)
        times = torch.arange(past.shape[1], device=device).expand(len(past), -1)
        there = times <= (last - known).repeat_interleave(n).unsqueeze(1)
        strategy = self._world.config.strategy
        chosen = retrieve(strategy, query, Remembered(past, times, there), self._config.recalled)
        columns = chosen.columns.unflatten(0, (b, n)).flatten(1)
        rows = np.take_along_axis(walks.rows, columns.cpu().numpy(), 1)
        return rows, (last - back).unsqueeze(1) - columns, chosen.valid.unflatten(0, (b, n)).flatten(1)

    def motions(self, walks: Histories, back: int) -> tuple[Tensor, Tensor]:
        """(B, 5) the motions asked for and made on the way to the frame ``back`` steps before the end; none to a first
        frame."""
        rows = walks.at(back)
        asked = self._world.actions.nominal_motion(torch.from_numpy(self._cache.actions[rows]).to(self._world.device))
        asked = asked * torch.from_numpy(walks.exists(back + 1)).to(asked.device).unsqueeze(1)
        return asked, motion_between(self.poses(walks.at(back + 1)), self.poses(rows)).to(torch.float32)

    def poses(self, rows: NDArray[np.int64]) -> Tensor:
        """Poses (..., 5) of the cache's frames ``rows`` (...)."""
        return torch.from_numpy(self._cache.poses[rows]).to(self._world.device)

    def read(self, rows: NDArray[np.int64]) -> Tensor:
        """Latents (..., C, h, w) of the cache's frames ``rows`` (...)."""
        return torch.from_numpy(self._latents[rows]).to(self._world.device, torch.float32)
