"""Behaviour cloning: a policy that does what was done in the recorded data. A baseline that imagines nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from ..files import write_json
from ..rollouts.cache import TrainingCache
from ..world_models.training.chance import Chance
from ..world_models.training.config import StageConfig
from ..world_models.training.fit import fit
from ..world_models.world import World
from .actor_critic import ActorCritic, ActorCriticConfig
from .agent import Agent
from .imagined_batch import check_states
from .stored import perception
from .training import Watch

_OBSERVED_AT_ONCE = 32


@torch.no_grad()
def recorded_choices(world: World, cache: TrainingCache, n: int, context: int, seed: int) -> tuple[Tensor, Tensor]:
    """What was seen and what was done then, at so many moments of the data: state vectors (n, D), actions (n, ...).

    Args:
        world: perceives.
        cache: recorded experience.
        n: moments.
        context: frames observed before each choice, the one it was made at included.
        seed: of their choice.

    Raises:
        DataError: no episode is longer than ``context`` frames.
    """
    starts = cache.window_indices(0, n, context + 1, seed)
    vectors, actions = [], []
    for begin in range(0, n, _OBSERVED_AT_ONCE):
        windows = cache.read_windows(starts[begin : begin + _OBSERVED_AT_ONCE], context + 1)
        frames, poses, done = (torch.from_numpy(x) for x in (windows.frames, windows.poses, windows.actions))
        state = world.observe(world.start(len(frames)), frames[:, :-1], done[:, :-1], poses[:, :-1])
        vectors.append(world.encode_state(state))
        # The action that led to the next frame was chosen at this one.
        actions.append(done[:, -1].to(world.device))
    return torch.cat(vectors), torch.cat(actions)


class CloningStage:
    """The policy learns the likelihood of recorded actions; nothing else is trained.

    Args:
        agent: whose policy learns.
        vectors, actions: (N, D) and (N, ...), see `recorded_choices`.
        training: steps and batch size.
        seed: of the batches.
    """

    name = "cloning"

    def __init__(
        self, agent: ActorCritic, vectors: Tensor, actions: Tensor, training: StageConfig, seed: int
    ) -> None:
        self.module: nn.Module = agent
        self._agent, self._vectors, self._actions = agent, vectors, actions
        self._training, self._seed = training, seed

    def loss(self, step: int) -> dict[str, Tensor]:
        """Surprise at one batch of recorded actions."""
        chance = Chance.of(self._seed, step, self._training.batch_size, self._vectors.device)
        rows = (chance.even(1, 1)[:, 0] * len(self._vectors)).long().clamp(max=len(self._vectors) - 1)
        return {"cloning": -self._agent.policy.log_prob(self._vectors[rows], self._actions[rows]).mean()}


def clone_behaviour(
    world: World,
    cache: TrainingCache,
    out: Path,
    config: ActorCriticConfig,
    training: StageConfig,
    *,
    samples: int = 4096,
    context: int = 32,
    seed: int = 0,
    checkpoint_every: int = 250,
    stop_after: int | None = None,
    about: dict[str, Any] | None = None,
    watch: Watch = lambda progress, watched: None,
) -> Agent | None:
    """Train a policy on recorded actions; arguments and files as those of `train_in_imagination`.

    Args:
        world: perceives.
        cache: recorded experience.
        out: directory of the run.
        config: sizes of the heads.
        training: steps, batch size, learning rate.
        samples: moments of the data to learn from.
        context: frames observed before each.
        seed: of everything random.
        checkpoint_every: steps between checkpoints.
        stop_after: end after this step, as an interruption would.
        about: where the agent comes from, kept with it.
        watch: called after every step.

    Raises:
        ConfigError: a world without a state space, or data of other actions or frames.
        DataError: no episode is longer than ``context`` frames.
        Diverged: a loss became NaN; the last checkpoint is kept.
    """
    check_states(world)
    if cache.action_spec != world.actions or cache.frame_size != tuple(world.frame_size):
        raise ConfigError("The recorded experience has other actions or frames than this world.")
    torch.manual_seed(seed)
    heads = ActorCritic(world.state_size, world.actions, config).to(world.device)
    stage = CloningStage(heads, *recorded_choices(world, cache, samples, context, seed), training, seed)
    key = f"{training.fingerprint()}-{cache.fingerprint}-{perception(world)}-{samples}-{context}-{seed}"
    write_json(out / "run.json", {"fingerprint": key})
    average, finished = fit(
        stage, training, out / "cloning.safetensors", key, precision="float32",
        checkpoint_every=checkpoint_every, stop_at=stop_after, after_step=lambda progress: watch(progress, {}),
    )  # fmt: skip
    if not finished:
        return None
    heads.load_state_dict(average, strict=False)
    agent = Agent(world, heads, seed)
    agent.save(out / "agent", {"method": "cloning", "seed": seed, **(about or {})})
    return agent
