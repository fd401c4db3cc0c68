"""Fourth stage: the state space, over latents that the autoencoder made."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from ...rollouts.cache import TrainingCache
from ..prediction.ways import either_way
from ..state_space import StateSpace
from ..world_model import WorldModel
from .chance import Chance
from .config import StageConfig
from .state_samples import StateSamples

UNROLLED = 6
"""Steps predicted in a row, each from the prediction before."""
CONSISTENCY = 0.05
"""Weight of predicting the next state, over that of showing it: with much, states say only what is easily predicted."""
FADING = 0.95
"""What a step further ahead counts, over the step before."""


class StateStage:
    """Multi-step prediction in state space (TD-MPC2): of the states that later frames are encoded to, of motions,
    rewards and ends, and of the latents of what is seen, which keep the states from saying nothing.

    The states to predict are given (their gradient is stopped).

    Args:
        world: the model; all but its state space is left alone.
        cache: recorded experience.
        latents: (N, C, h, w) float16 latents of the cache's frames.
        config: batch size.
        seed: of every random choice.
        parts: of the heads that alone are trained, ``"outcome"`` (rewards and ends) and ``"motion"`` (where actions
            lead); the whole state space where none is named.
    """

    name = "state"

    def __init__(
        self,
        world: WorldModel,
        cache: TrainingCache,
        latents: NDArray[np.float16],
        config: StageConfig,
        seed: int,
        parts: tuple[str, ...] = (),
    ) -> None:
        assert world.state_space is not None
        self._world, self._cache, self._config, self._seed = world, cache, config, seed
        self._samples = StateSamples(world, cache, latents, UNROLLED)
        self._space: StateSpace = world.state_space
        self.module: nn.Module = self._space
        self._motions = not parts or "motion" in parts
        if parts:
            self.name = "state-outcomes" if parts == ("outcome",) else "state-heads"
            self._space.requires_grad_(False)
            heads = {name: self._space.head.get_submodule(name) for name in parts}
            self.module = nn.ModuleDict({"head": nn.ModuleDict(heads)})
            self.module.requires_grad_(True)

    def loss(self, step: int) -> dict[str, Tensor]:
        """Losses of one batch of recorded walks."""
        world, cache, b, device = self._world, self._cache, self._config.batch_size, self._world.device
        samples, space, spec = self._samples, self._space, world.actions
        chance = Chance.of(self._seed, step, b, device)
        walks = samples.draw(step, b, self._seed)
        steps = torch.tensor([spec.step_length] * 3 + [spec.step_angle] * 2, device=device)
        state = space.encode(samples.seen(walks, UNROLLED, chance))
        losses: dict[str, list[Tensor]] = {}
        now: dict[str, Tensor] = {}
        if self.module is space:
            now["now"] = F.mse_loss(space.head.decode(state), samples.read(walks.at(UNROLLED)))
        asked, made = samples.motions(walks, UNROLLED)
        deviation = made - asked
        for ahead in range(1, UNROLLED + 1):
            back = UNROLLED - ahead
            rows = walks.at(back)
            there = torch.from_numpy(walks.exists(back)).to(device, torch.float32)

            def mean(losses: Tensor, there: Tensor = there) -> Tensor:
                """Over the walks that have this step."""
                return (losses.reshape(b, -1).mean(1) * there).sum() / there.sum().clamp(min=1)

            asked, made = samples.motions(walks, back)
            before, last = state, deviation
            deviation = made - asked
            recalled = samples.remembered(walks, back, chance)
            after = world.step_state(state, samples.poses(walks.at(back + 1)), made, deviation, recalled)
            state = after.state
            paid = torch.from_numpy(cache.rewards[rows]).to(device)
            goes_on = torch.from_numpy(~cache.terminated[rows]).to(device, torch.float32)
            ends = F.binary_cross_entropy_with_logits(after.goes_on, goes_on, reduction="none")
            found = {"reward": mean((after.reward - paid).square()), "continue": mean(ends)}
            if self._motions:
                ways = space.head.ways(before, world.magnitudes(asked), last / steps)
                found["motion"] = mean(either_way(*ways, deviation / steps))
            if self.module is space:
                with torch.no_grad():
                    aim = space.encode(samples.seen(walks, back, chance))
                found["next"] = CONSISTENCY * mean((after.members - aim.unsqueeze(1)).square())
                found["ahead"] = mean((space.head.decode(state) - samples.read(rows)).square())
            for name, loss in found.items():
                losses.setdefault(name, []).append(loss)
        weights = FADING ** torch.arange(UNROLLED, device=device, dtype=torch.float32)
        return now | {name: (torch.stack(each) * weights).mean() for name, each in losses.items()}
