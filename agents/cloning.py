"""Behaviour cloning: a policy that does what was done in the recorded data.

By itself a baseline that imagines nothing (`clone_behaviour`); also where agents of imagination can begin (`imitate`).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.random import Philox
from numpy.typing import NDArray
from torch import Tensor, nn

from ..errors import ConfigError, DataError
from ..rollouts.cache import TrainingCache
from ..rollouts.windows import WindowIndex
from ..world_models.training.chance import Chance
from ..world_models.training.config import StageConfig
from ..world_models.training.fit import Progress, fit
from ..world_models.training.run_directory import claim
from ..world_models.world import World
from .actor_critic import ActorCritic, ActorCriticConfig
from .agent import Agent
from .imagined_batch import check_states, tokens_of
from .stages import Watch
from .stored import perception

if TYPE_CHECKING:
    from .sb3_heads import Sb3Heads

PERCEIVING, CLONING = "perceiving", "cloning"
"""What progress is told of: choices are drawn, then learned."""
_OBSERVED_AT_ONCE = 32


@dataclass(frozen=True)
class Choices:
    """What was seen, what was done then, and what came of it, at N moments of recorded experience.

    Attributes:
        vectors: (N, D) float32 state vectors.
        actions: (N, ...) in the world's own action space.
        returns: (N,) float32, discounted reward from there to the episode's end; nothing is added where it was cut off.
            None where nobody asked.
    """

    vectors: Tensor
    actions: Tensor
    returns: Tensor | None = None


@dataclass(frozen=True)
class Recorded:
    """Where choices are drawn from.

    They come in walks of up to ``context`` frames that begin anywhere in an episode, and are made after each of these
    frames, so that a memory is as full as it is on the way.

    Attributes:
        cache: recorded experience.
        samples: N, choices drawn.
        context: frames of a walk at most.
        shortest: frames that are seen before the first choice of a walk; default: ``context``, so that each has one.
        beginnings: share of the walks that begin where their episode does.
        rewarded: only episodes in which more was earned than lost (Chen et al. 2021, "%BC").
    """

    cache: TrainingCache
    samples: int = 4096
    context: int = 32
    shortest: int | None = None
    beginnings: float = 0.0
    rewarded: bool = False

    def to_json(self) -> list[Any]:
        """What the choices depend on, beside a seed."""
        return [self.cache.fingerprint, self.samples, self.context, self.shortest, self.beginnings, self.rewarded]

    def walks(self, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """First frame, number of frames with a choice after the last, and end of the episode, each (W,), of walks.

        Raises:
            DataError: no episode is longer than ``shortest`` frames, or nothing was ever earned.
        """
        cache, shortest = self.cache, self.shortest or self.context
        first, lengths = cache.episode_start, cache.episode_lengths
        if self.rewarded:
            earned = np.add.reduceat(cache.rewards, first) > 0
            if not earned.any():
                raise DataError(
                    f"In no episode of {cache.path} was more earned than lost; there is none to imitate "
                    "(--no-rewarded: imitate all)."
                )
            first, lengths = first[earned], lengths[earned]
        # At most so many walks are needed.
        among = WindowIndex(lengths, shortest + 1).draw(0, self.samples, seed)
        episode = np.searchsorted(np.cumsum(lengths), among, side="right")
        offset = among - (np.cumsum(lengths) - lengths)[episode]
        begins = Philox(key=seed, counter=[0, 0, 1, 0]).random_raw(self.samples) >> np.uint64(11)
        offset[begins * 2.0**-53 < self.beginnings] = 0
        start, end = first[episode] + offset, (first + lengths)[episode]
        seen = np.minimum(end - 1 - start, self.context)
        needed = int(np.searchsorted(np.cumsum(seen - shortest + 1), self.samples)) + 1
        return start[:needed], seen[:needed], end[:needed]

    @torch.no_grad()
    def choices(
        self,
        world: World,
        seed: int,
        discount: float | None = None,
        watch: Watch = lambda progress, watched: None,
    ) -> Choices:
        """Draw them, perceived by ``world``; the same for the same seed.

        Args:
            world: perceives.
            seed: of the draw.
            discount: of the returns, per step; default: none are told.
            watch: told, as of steps of training, how many choices have been perceived.

        Raises:
            DataError: no episode is longer than ``shortest`` frames, or nothing was ever earned.
        """
        shortest = self.shortest or self.context
        start, seen, end = self.walks(seed)
        order = np.argsort(-seen, kind="stable")
        vectors, chosen_at, ends = [], [], []
        for rows in np.array_split(order, -(-len(order) // _OBSERVED_AT_ONCE)):
            length = int(seen[rows].max())
            # Past its end a shorter walk stands still; nothing is chosen there.
            reach = np.minimum(np.arange(length), seen[rows, None] - 1)
            at = start[rows, None] + reach
            frames, poses, done = (
                torch.from_numpy(np.asarray(a[at])) for a in (self.cache.frames, self.cache.poses, self.cache.actions)
            )
            state = world.start(len(rows))
            for j in range(length):
                state = world.observe(state, frames[:, j : j + 1], done[:, j : j + 1], poses[:, j : j + 1])
                if j + 1 < shortest:
                    continue
                lives = np.flatnonzero(seen[rows] > j)
                vectors.append(world.encode_state(state)[torch.from_numpy(lives).to(world.device)])
                chosen_at.append(start[rows[lives]] + j)
                ends.append(end[rows[lives]])
            watch(Progress(PERCEIVING, min(sum(map(len, ends)), self.samples), self.samples, {}, {}), {})
        n, at, last = self.samples, np.concatenate(chosen_at), np.concatenate(ends)
        # The action that led to the next frame was chosen at this one.
        actions = torch.from_numpy(np.asarray(self.cache.actions[at[:n] + 1])).to(world.device)
        if discount is None:
            return Choices(torch.cat(vectors)[:n], actions)
        paid = [self._return(int(i) + 1, int(e), discount) for i, e in zip(at[:n], last[:n], strict=True)]
        return Choices(torch.cat(vectors)[:n], actions, torch.tensor(paid, dtype=torch.float32, device=world.device))

    def _return(self, begin: int, end: int, discount: float) -> float:
        return float(self.cache.rewards[begin:end] @ discount ** np.arange(end - begin))


def cloning_training(steps: int = 4000) -> StageConfig:
    """How what was done in recordings is learned unless told otherwise."""
    return StageConfig(steps, batch_size=256, learning_rate=1e-3, warmup=50, weight_decay=0.05, clip=10.0, ema=0.99)


class CloningStage:
    """The policy learns the likelihood of actions and the critic what came of them, where that is known.

    Args:
        heads: that learn; where no returns are known, the policy alone.
        choices: to learn from.
        training: steps and batch size.
        seed: of the batches.
    """

    name = CLONING

    def __init__(self, heads: ActorCritic | Sb3Heads, choices: Choices, training: StageConfig, seed: int) -> None:
        # Policy and critic of Stable-Baselines3 are one network.
        self.module: nn.Module = heads if isinstance(heads, ActorCritic) else heads.policy.net
        self._heads, self._choices = heads, choices
        self._training, self._seed = training, seed

    def loss(self, step: int) -> dict[str, Tensor]:
        """Surprise at one batch of actions, and how far off is what they are expected to earn."""
        given = self._choices
        chance = Chance.of(self._seed, step, self._training.batch_size, given.vectors.device)
        rows = (chance.even(1, 1)[:, 0] * len(given.vectors)).long().clamp(max=len(given.vectors) - 1)
        vectors = given.vectors[rows]
        losses = {"cloning": -self._heads.policy.log_prob(vectors, given.actions[rows]).mean()}
        if given.returns is not None:
            heads, earned = self._heads, given.returns[rows]
            if not isinstance(heads, ActorCritic):
                return losses | {"critic": (heads.critic.value(vectors) - earned).square().mean()}
            losses["critic"] = heads.critic.loss(heads.critic.logits(vectors), earned).mean()
            if heads.q is not None:
                losses["q"] = heads.q.loss(vectors, given.actions[rows], earned).mean()
        return losses


def clone_behaviour(
    world: World,
    recorded: Recorded,
    out: Path,
    config: ActorCriticConfig,
    training: StageConfig,
    *,
    seed: int = 0,
    checkpoint_every: int = 250,
    stop_after: int | None = None,
    about: dict[str, Any] | None = None,
    watch: Watch = lambda progress, watched: None,
) -> Agent | None:
    """Train a policy on recorded actions; arguments and files as those of `train_in_imagination`.

    Args:
        world: perceives.
        recorded: experience.
        out: directory of the run.
        config: sizes of the heads.
        training: steps, batch size, learning rate.
        seed: of everything random.
        checkpoint_every: steps between checkpoints.
        stop_after: end after this step, as an interruption would.
        about: where the agent comes from, kept with it.
        watch: called after every step.

    Raises:
        ConfigError: a world without a state space, data of other actions or frames, or ``out`` holds another run.
        DataError: no episode is longer than ``recorded.shortest`` frames, or nothing was ever earned.
        Diverged: a loss became NaN; the last checkpoint is kept.
    """
    check_states(world)
    check_recorded(world, recorded)
    torch.manual_seed(seed)
    tokens = tokens_of(world, config.heads.tokens)
    heads = ActorCritic(world.state_size, world.actions, config, tokens).to(world.device)
    key = f"{training.fingerprint()}-{perception(world)}-{seed}-{recorded.to_json()}-{asdict(config.heads)}"
    claim(out, key)
    stage = CloningStage(heads, recorded.choices(world, seed, watch=watch), training, seed)
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


def imitate(
    heads: ActorCritic | Sb3Heads,
    world: World,
    recorded: Recorded,
    training: StageConfig,
    checkpoint: Path,
    fingerprint: str,
    *,
    discount: float,
    seed: int = 0,
    checkpoint_every: int = 250,
    watch: Watch = lambda progress, watched: None,
) -> None:
    """Bring heads that have learned nothing yet to what was done in the data, their critic to what came of it.

    Args:
        heads: ours, or of PPO or A2C, changed in place.
        world: perceives.
        recorded: experience.
        training: steps, batch size, learning rate.
        checkpoint: file to go on from after an interruption, and to write.
        fingerprint: of the run.
        discount: of the critic, per step.
        seed: of everything random.
        checkpoint_every: steps between checkpoints.
        watch: called after every step.

    Raises:
        DataError, Diverged: as `clone_behaviour`.
    """
    stage = CloningStage(heads, recorded.choices(world, seed, discount, watch), training, seed)
    average, _ = fit(
        stage, training, checkpoint, fingerprint, precision="float32", checkpoint_every=checkpoint_every,
        after_step=lambda progress: watch(progress, {}),
    )  # fmt: skip
    stage.module.load_state_dict(average, strict=False)
    if isinstance(heads, ActorCritic):
        heads.target.load_state_dict(heads.critic.state_dict())


def check_recorded(world: World, recorded: Recorded) -> None:
    """Refuse experience of another kind of world.

    Raises:
        ConfigError: its actions or frames are others.
    """
    cache = recorded.cache
    if cache.action_spec != world.actions or cache.frame_size != tuple(world.frame_size):
        raise ConfigError("The recorded experience has other actions or frames than this world.")
