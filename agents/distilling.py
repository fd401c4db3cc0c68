"""Distilling: a policy learns to do at once what planning finds, from recorded starts on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ..envs.contexts import Contexts
from ..errors import ConfigError
from ..files import replacing
from ..planning import Plan
from ..world_models.training.config import StageConfig
from ..world_models.training.fit import Progress, fit
from ..world_models.training.run_directory import claim
from ..world_models.world import World
from .actor_critic import ActorCritic
from .agent import Agent
from .cloning import Choices, CloningStage
from .imagined_batch import ObservedStarts
from .planning import PlanSearch, objective_of
from .stages import Watch

_PLANNED_AT_ONCE = 16


class DistillingStage(CloningStage):
    """The policy learns the likelihood of planned actions; nothing else is trained."""

    name = "distilling"


@dataclass(frozen=True)
class Lives:
    """Lives that are planned and imagined step by step, from recorded starts on.

    Attributes:
        starts: recorded starts; every life begins at the end of one of them.
        search: how to plan.
        discount: γ.
        teacher: whose policy proposes plans and whose critic ends them; None for planning by reward alone.
        samples: lives.
        depth: steps of each.
        seed: of starts, candidates and imagination.
    """

    starts: ObservedStarts
    search: PlanSearch
    discount: float
    teacher: Agent | None
    samples: int
    depth: int
    seed: int

    def __len__(self) -> int:
        """Groups that are planned at a time."""
        return -(-self.samples // _PLANNED_AT_ONCE)

    @torch.no_grad()
    def group(self, number: int) -> tuple[Tensor, Tensor]:
        """What is seen in the lives of a group and what planning chooses then: state vectors (n, D), actions (n, ...).

        What comes after the likely end of an episode is left out.
        """
        world = self.starts.world
        planner, objective = self.search.planner(self.seed, self.teacher), objective_of(self.discount, self.teacher)
        size = min(_PLANNED_AT_ONCE, self.samples - number * _PLANNED_AT_ONCE)
        state = self.starts.draw(size, self.seed, number)
        alive = torch.ones(size, device=state.device)
        previous: Plan | None = None
        vectors, actions = [], []
        for _ in range(self.depth):
            previous = planner.plan(world, state, objective, previous)
            going = alive > 0.5
            vectors.append(world.encode_state(state)[going])
            actions.append(previous.actions[:, 0][going])
            state, step = world.imagine(state, previous.actions[:, 0])
            alive = alive * step.continues
        return torch.cat(vectors), torch.cat(actions)


def distil_plans(
    world: World,
    contexts: Contexts,
    out: Path,
    heads: ActorCritic,
    training: StageConfig,
    search: PlanSearch | None = None,
    *,
    teacher: Agent | None = None,
    samples: int = 512,
    depth: int = 4,
    seed: int = 0,
    checkpoint_every: int = 250,
    stop_after: int | None = None,
    about: dict[str, Any] | None = None,
    watch: Watch = lambda progress, watched: None,
) -> Agent | None:
    """Teach a policy to act as planning does, or go on with a run that was interrupted: plans that were made are kept.

    Args:
        world: where to plan.
        contexts: recorded starts.
        out: directory of the run; receives the plans, a checkpoint and at the end ``agent``.
        heads: whose policy learns, from what it is now; its critic stays as it is. They are changed.
        training: steps, batch size, learning rate.
        search: how to plan.
        teacher: whose policy proposes plans and whose critic ends them; None for planning by reward alone.
        samples: lives to plan.
        depth: steps of each.
        seed: of everything random.
        checkpoint_every: steps between checkpoints.
        stop_after: end after this step, as an interruption would.
        about: where the agent comes from, kept with it.
        watch: called after every few plans and after every step.

    Returns:
        The agent (moving average of the parameters), or None where ``stop_after`` ended the run before that.

    Raises:
        ConfigError: numbers out of range, a world without a state space, starts of another world, or ``out`` holds
            another run.
        Diverged: a loss became NaN; the last checkpoint is kept.
    """
    if min(samples, depth) < 1:
        raise ConfigError(f"Distilling needs samples and depth of at least 1; got {samples} and {depth}.")
    search = search or PlanSearch()
    lives = Lives(ObservedStarts(world, contexts), search, heads.config.discount, teacher, samples, depth, seed)
    numbers = [asdict(search), asdict(heads.config), samples, depth, seed]
    planned = _digest(numbers, contexts, (world, None if teacher is None else teacher.heads))
    key = _digest([planned, training.fingerprint()], contexts, (heads,))
    claim(out, key)
    groups = []
    for number in range(len(lives)):
        groups.append(_kept(lives, number, out / "plans" / f"{number:06d}.safetensors", planned))
        watch(Progress("plans", number + 1, len(lives), {}, {}), {})
    vectors, actions = (torch.cat(each).to(world.device) for each in zip(*groups, strict=True))
    stage = DistillingStage(heads.to(world.device), Choices(vectors, actions), training, seed)
    average, finished = fit(
        stage, training, out / "distilling.safetensors", key, precision="float32",
        checkpoint_every=checkpoint_every, stop_at=stop_after, after_step=lambda progress: watch(progress, {}),
    )  # fmt: skip
    if not finished:
        return None
    heads.load_state_dict(average, strict=False)
    agent = Agent(world, heads, seed)
    agent.save(out / "agent", {"method": "distilling", "seed": seed, "choices": len(vectors), **(about or {})})
    return agent


def _kept(lives: Lives, number: int, path: Path, key: str) -> tuple[Tensor, Tensor]:
    """A group of lives, planned now or in an earlier session."""
    try:
        with safe_open(path, "pt") as file:
            if (file.metadata() or {}).get("key") == key:
                return file.get_tensor("vectors"), file.get_tensor("actions")
    except (OSError, SafetensorError):
        pass
    vectors, actions = lives.group(number)
    with replacing(path) as temporary:
        save_file({"vectors": vectors.contiguous(), "actions": actions.contiguous()}, temporary, {"key": key})
    return vectors, actions


def _digest(numbers: Any, contexts: Contexts, parts: Sequence[object]) -> str:
    """Of plain data, recorded starts, and the parameters of what has any."""
    digest = hashlib.sha256(json.dumps(numbers, sort_keys=True).encode())
    for array in contexts.experience():
        digest.update(array.tobytes())
    for part in parts:
        for tensor in part.state_dict().values() if isinstance(part, nn.Module) else ():
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
