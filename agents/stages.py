"""What is trained: the agent's heads in imagination, or with them, in one step, the state space they live in.

Both are stages of `world_models.training.fit`, so they are checkpointed, go on where they were interrupted, and stop
with the last good checkpoint where a loss is no number any more.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from ..world_models.training.config import StageConfig
from ..world_models.training.fit import Progress
from ..world_models.training.state_space import StateStage
from .actor_critic import ActorCritic
from .films import LIVES
from .imagined_batch import ImaginedBatch, ObservedStarts, perceived_anew, roll_out

Watch = Callable[[Progress, dict[str, float]], None]
"""Told after every step where training is, and the numbers of its batch, see `ActorCritic.losses`."""


class ImaginationStage:
    """Actor and critic in imagination; the world is given.

    Args:
        agent: what learns.
        starts: where roll-outs begin, in the world they are imagined in.
        training: steps and batch size.
        seed: of every random choice.
        curiosity: reward of showing what memory has not, see `roll_out`.

    Attributes:
        world: where it is imagined.
        watched: numbers of the last step, see `ActorCritic.losses`.
    """

    name = "agent"

    def __init__(
        self, agent: ActorCritic, starts: ObservedStarts, training: StageConfig, seed: int, curiosity: float = 0.0
    ) -> None:
        self.world = starts.world
        self._agent, self._starts, self._training, self._seed = agent, starts, training, seed
        self._curiosity = curiosity
        self.module: nn.Module = agent
        self.watched: dict[str, float] = {}

    def loss(self, step: int) -> dict[str, Tensor]:
        """Losses of one imagined batch."""
        if step:
            self._agent.track()
        state = self._starts.draw(self._training.batch_size, self._seed, step)
        along_dynamics = self._agent.config.estimator == "dynamics"
        with torch.set_grad_enabled(along_dynamics):
            batch = roll_out(
                self.world, state, self._agent.policy, self._horizon(step), curiosity=self._curiosity
            )
        losses, self.watched = self._agent.losses(batch)
        return losses

    @torch.no_grad()
    def film(self, step: int, worlds: int = LIVES) -> ImaginedBatch:
        """Imagined lives of the policy as it is, to look at."""
        state = self._starts.draw(worlds, self._seed + 1, step)
        return roll_out(self.world, state, self._agent.policy, self._agent.config.horizon, films=worlds)

    def _horizon(self, step: int) -> int:
        return self._agent.config.horizon_at(step, self._training.steps)


class JointStage(ImaginationStage):
    """The whole loop in one step: memory and perception, prediction, evaluation and decision under one loss.

    The loss is the sum of the state space's own (`StateStage`: showing what is seen, predicting states, motions,
    rewards and ends on recorded walks) and of the agent's in imagination. Recorded starts are perceived anew by the
    encoder as it is, and the critic's gradient flows back through the k imagined steps into the encoder, weighed by
    `actor_critic.SHAPING`.

    Stopped gradients: the actor sees states as given, so that no world is learned in which it only thinks it does well;
    λ-returns, with the rewards and ends in them, are given; the target critic and the states that `StateStage` predicts
    are given; autoencoder, video model and its heads are left alone.

    Args:
        agent: what learns.
        starts: where roll-outs begin, in a world that imagines in state space.
        states: trains the state space of that world.
        training: steps and batch size.
        seed: of every random choice.

    Raises:
        ConfigError: an estimator that would change the world to the actor's liking, or a world that imagines in video.
    """

    name = "joint"

    def __init__(
        self, agent: ActorCritic, starts: ObservedStarts, states: StateStage, training: StageConfig, seed: int
    ) -> None:
        if agent.config.estimator == "dynamics":
            raise ConfigError(
                "Joint training needs estimator='reinforce': through the dynamics the actor would bend the world."
            )
        super().__init__(agent, starts, training, seed)
        self._states = states
        self.module = nn.ModuleDict({"agent": agent, "state_space": states.module})

    def loss(self, step: int) -> dict[str, Tensor]:
        """Losses of one batch of recorded walks and one imagined batch."""
        if step:
            self._agent.track()
        losses = {f"world_{name}": loss for name, loss in self._states.loss(step).items()}
        state = perceived_anew(self.world, self._starts.draw(self._training.batch_size, self._seed, step))
        batch = roll_out(self.world, state, self._agent.policy, self._horizon(step))
        if not batch.vectors.requires_grad:
            raise ConfigError("Joint training needs a world that imagines in state space: imagination='state'.")
        own, self.watched = self._agent.losses(batch, shape_states=True)
        return losses | own

    @torch.no_grad()
    def film(self, step: int, worlds: int = LIVES) -> ImaginedBatch:
        """Imagined lives of the policy as it is, in the world as it is, to look at."""
        state = perceived_anew(self.world, self._starts.draw(worlds, self._seed + 1, step))
        return roll_out(self.world, state, self._agent.policy, self._agent.config.horizon, films=worlds)
