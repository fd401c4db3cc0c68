"""Third stage: the video model, over latents that the autoencoder made."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...rollouts.cache import TrainingCache
from ..actions import key_class
from ..memory.kv_cache import compressed_parts, ring_times
from ..memory.retrieval import Query, Remembered, retrieve
from ..pose import motion_between
from ..prediction.context import Context
from ..prediction.flow import interpolate, velocity
from ..world_model import WorldModel
from .chance import Chance
from .config import MemoryTraining, StageConfig
from .histories import Histories, draw_histories

CONTEXT_NOISE = 0.3
SHORT_CONTEXT = 0.15
_NO_MEMORY = MemoryTraining(hide=0, dropout=0, palindromes=0, pose_noise=0)
UNROLLED = 24
"""Frames that a recurrent memory is trained through."""
_SMALL = 0.1
"""Motions below this share of a step are no key pressed, in walks whose keys were not recorded."""


class DynamicsStage:
    """Next-frame flow matching with noisy context (Diffusion Forcing levels) and memory.

    Memory is retrieved in training exactly as in imagination: by the pose of the frame to predict, from all earlier
    frames of the episode.

    Args:
        world: the model; its autoencoder is left alone.
        cache: recorded experience.
        latents: (N, C, h, w) float16 latents of the cache's frames.
        config: batch size, and the steps that the curriculum is spread over.
        memory: how memory is learned; nothing of it applies to a world without one.
        seed: of every random choice.
        packings: names of `PACKINGS` that steps take turns with; default the world's own.
    """

    name = "dynamics"

    def __init__(
        self,
        world: WorldModel,
        cache: TrainingCache,
        latents: NDArray[np.float16],
        config: StageConfig,
        memory: MemoryTraining,
        seed: int,
        packings: Sequence[str] = (),
    ) -> None:
        self._world, self._cache, self._latents, self._config, self._seed = world, cache, latents, config, seed
        self._memory = memory
        self._turns = [world.config.with_overrides(packing=name) for name in packings]
        self.module = world.cdit

    def loss(self, step: int) -> dict[str, Tensor]:
        """Loss of one batch of frames, each with the K frames before it and what is remembered of earlier ones."""
        world, cache, b = self._world, self._cache, self._config.batch_size
        if len(self._turns) > 1:
            world.use(self._turns[step % len(self._turns)])
        memory = self._learning()
        spec, device = world.actions, world.device
        chance = Chance.of(self._seed, step, b, device)
        turns = chance.share(10, memory.palindromes).cpu().numpy()
        way_back = chance.even(11, 1)[:, 0].double().cpu().numpy()
        walks = draw_histories(cache, world.config.context, step, b, self._seed, turns, way_back)
        aim, before = walks.at(0), walks.at(1)
        target, arrived = self._read(aim), self._poses(aim)
        recorded = torch.from_numpy(walks.recorded).to(device)

        asked = spec.nominal_motion(torch.from_numpy(cache.actions[aim]).to(device))
        motion = motion_between(self._poses(before), arrived).to(torch.float32)
        steps = motion.new_tensor([spec.step_length] * 3 + [spec.step_angle] * 2)
        made = torch.where((motion / steps).abs() < _SMALL, 0.0, motion)
        keys = key_class(torch.where(recorded[:, None], asked, made))
        magnitudes = world.magnitudes(motion)

        moment = 1 - chance.even(6, 1).squeeze(1).sqrt()
        start = chance.gauss(7, *target.shape[1:])
        flow = world.cdit(
            interpolate(target, start, moment), moment, keys, magnitudes, self._context(walks, arrived, step, chance)
        )
        return {"flow": (flow.float() - velocity(target, start)).square().mean()}

    def _context(self, walks: Histories, arrived: Tensor, step: int, chance: Chance) -> Context:
        """What the target is predicted from."""
        world, memory, k = self._world, self._learning(), self._world.config.context
        device = arrived.device
        target = torch.from_numpy(walks.target).to(device)
        time = self._offsets(walks).to(device)
        exist = time >= -target.unsqueeze(1)
        rows = walks.before(time.clamp(max=-1).cpu().numpy())
        clean, poses = self._read(rows), self._poses(rows)
        level = CONTEXT_NOISE * chance.even(1, time.shape[1]) * (chance.even(2, 1) < 0.5)
        latents = torch.lerp(clean, chance.gauss(3, *clean.shape[1:]), level[..., None, None, None])
        newest = torch.arange(len(time), device=device), (time == -1).to(torch.int64).argmax(1)
        some = (chance.even(5, 1) * k).long() + 1
        seen = torch.where(chance.share(4, SHORT_CONTEXT)[:, None], some, torch.full_like(some, time.shape[1]))
        # Where the recent frames are hidden, something must be there to remember.
        hidden = chance.share(12, memory.hide) & (target > 2 * k)
        covered = hidden[:, None] & (time >= -k)
        level = torch.where(covered, torch.ones_like(level), level)
        latents = torch.where(covered[..., None, None, None], chance.gauss(13, *clean.shape[1:]), latents)
        valid = exist & ((time >= -seen) | hidden[:, None])
        if world.config.cdit.compressed:
            parts = compressed_parts(world.cdit.read, latents, level, poses, time, valid, k, world.cdit.tokens)
            return world.cdit.place(parts, latents[newest], arrived)
        if world.config.remembers:
            found, places, ages, there = self._recall(walks, arrived, step, chance)
            there = there & (hidden | ~chance.share(14, memory.dropout))[:, None]
            old_level = CONTEXT_NOISE * chance.even(15, there.shape[1]) * (chance.even(16, 1) < 0.5)
            found = torch.lerp(found, chance.gauss(17, *found.shape[1:]), old_level[..., None, None, None])
            latents, level = torch.cat([latents, found], 1), torch.cat([level, old_level], 1)
            valid, time = torch.cat([valid, there], 1), torch.cat([time, world.cdit.offsets(ages, there)], 1)
            poses = torch.cat([poses, places], 1)
        others = []
        if world.cdit.recurrence is not None:
            others = [world.cdit.recollect(self._recur(walks, hidden, chance), self._poses(walks.at(1)))]
        return world.cdit.context(latents, level, time, poses, valid, arrived, others)

    def _recur(self, walks: Histories, hidden: Tensor, chance: Chance) -> Tensor:
        """Hidden state (B, width, h, w) of the recurrent memory after the latest frames before the target."""
        world, recurrence = self._world, self._world.cdit.recurrence
        assert recurrence is not None
        back = np.arange(-UNROLLED, 0)
        there = torch.from_numpy(walks.target[:, None] + back >= 0).to(hidden.device)
        rows = walks.before(np.broadcast_to(back - 1, (len(walks.rows), UNROLLED)))
        poses = self._poses(np.concatenate([rows, walks.at(1)[:, None]], 1))
        motions = motion_between(poses[:, :-1], poses[:, 1:]).to(torch.float32)
        latents = self._read(np.concatenate([rows[:, 1:], walks.at(1)[:, None]], 1))
        noise = chance.gauss(20, world.config.context, *latents.shape[2:])
        state = recurrence.start(latents[:, 0])
        for t in range(UNROLLED):
            seen, recent = latents[:, t], t - UNROLLED + world.config.context
            if recent >= 0:
                seen = torch.where(hidden[:, None, None, None], noise[:, recent], seen)
            after = recurrence(state, seen, world.magnitudes(motions[:, t]))
            known = there[:, t, None, None, None]
            state = torch.where(known, after[0], state[0]), torch.where(known, after[1], state[1])
        return state[0]

    def _learning(self) -> MemoryTraining:
        """How memory is learned, or nothing of it where the world has none."""
        config = self._world.config
        remembers = config.remembers or config.cdit.compressed or config.cdit.recurrent
        return self._memory if remembers else _NO_MEMORY

    def _offsets(self, walks: Histories) -> Tensor:
        """(B, K + C) when the frames in the context's slots were seen, in steps from the target, all below 0."""
        config, now = self._world.config, torch.from_numpy(walks.target)
        k, compressed = config.context, config.cdit.compressed
        if not compressed:
            return torch.arange(-k, 0).expand(len(now), k)
        times = torch.cat([ring_times(now - 1, k), ring_times(now - 1 - k, compressed)], 1)
        return times - now.unsqueeze(1)

    def reach(self, step: int) -> int:
        """Curriculum: how many frames back memory reaches at a step of training."""
        longest = 2 * int(self._cache.episode_lengths.max())
        done = min(1.0, step / max(1.0, self._memory.full_reach * self._config.steps))
        return round(self._memory.first_reach + done * (longest - self._memory.first_reach))

    def _recall(self, walks: Histories, arrived: Tensor, step: int, chance: Chance) -> tuple[Tensor, ...]:
        """What is remembered: latents (B, R, C, h, w), poses (B, R, 5), ages (B, R), which exist (B, R)."""
        world, memory = self._world, self._memory
        spec, b = world.actions, len(arrived)
        device = arrived.device
        poses = self._poses(walks.rows)
        noise = chance.gauss(18, 5).to(torch.float64) * memory.drift
        step_size = noise.new_tensor([spec.step_length] * 2 + [0] + [spec.step_angle, 0])
        off = noise * step_size * chance.share(19, memory.pose_noise)[:, None]
        poses = poses + off[:, None]
        times = torch.arange(poses.shape[1], device=device).expand(b, -1)
        now = torch.from_numpy(walks.target).to(device)
        there = times >= (now - self.reach(step)).unsqueeze(1)
        query = Query(arrived, now, chance.counter, skip=world.config.context)
        past = Remembered(poses, times, there)
        chosen = retrieve(world.config.strategy, query, past, len(world.config.cdit.retrieved))
        rows = np.take_along_axis(walks.rows, chosen.columns.cpu().numpy(), 1)
        places = poses.gather(1, chosen.columns.unsqueeze(-1).expand(-1, -1, 5))
        return self._read(rows), places, chosen.columns - now.unsqueeze(1), chosen.valid

    def _poses(self, rows: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(self._cache.poses[rows]).to(self._world.device)

    def _read(self, rows: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(self._latents[rows]).to(self._world.device, torch.float32)
