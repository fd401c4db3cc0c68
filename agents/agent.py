"""`Agent`: perceives and remembers through a world model, decides by what it learned in imagination."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..errors import ConfigError
from ..world_models.actions import ActionSpec
from ..world_models.noise import hash64
from ..world_models.state import WorldState
from ..world_models.world import World
from .actor_critic import ActorCritic, ActorCriticConfig
from .frame_stack import FrameStack
from .heads import HeadsConfig
from .imagined_batch import check_states, draws
from .sb3_config import SB3_FORMAT, check_installed
from .stored import StoredAgent, perception, read_agent, world_name, write_agent

if TYPE_CHECKING:
    from .sb3_heads import Sb3Heads

FORMAT = "worldloop.agent/1"


@dataclass(frozen=True)
class AgentState:
    """What an agent knows of B real worlds: what it saw and remembers of each, and its last actions (B, ...)."""

    world: WorldState
    acted: Tensor


class Agent:
    """A policy that remembers what it has really seen, in B real worlds side by side.

    Example:
        >>> agent = load_agent("runs/agent/agent")                                       # doctest: +SKIP
        >>> frame, info = env.reset()                                                    # doctest: +SKIP
        >>> state = None                                                                 # doctest: +SKIP
        >>> for _ in range(50):                                                          # doctest: +SKIP
        ...     action, state = agent.predict({"frame": frame, "pose": info["pose"]}, state)
        ...     frame, _, terminated, truncated, info = env.step(action)

    To planners it is a policy, a prior over keys and a value, all of state vectors: `act`, `probabilities`, `value`.

    Args:
        world: through which it perceives; the one it learned in, or, without a learned one, a `FrameStack`.
        heads: policy and critic, our own or those of Stable-Baselines3.
        seed: of the choices of `predict` where they are not deterministic.

    Raises:
        ConfigError: heads made for other states or actions than this world's.
    """

    def __init__(self, world: World, heads: ActorCritic | Sb3Heads, seed: int = 0) -> None:
        check_states(world)
        if heads.size != world.state_size or heads.spec != world.actions:
            raise ConfigError(
                f"This agent knows states of {heads.size} numbers and the actions {', '.join(heads.spec.names)}; "
                f"the world has {world.state_size} and {', '.join(world.actions.names)}."
            )
        self.world, self.seed = world, seed
        self.heads: ActorCritic | Sb3Heads = heads.eval()

    def begin(self, batch_size: int) -> AgentState:
        """What is known of so many real worlds before the first frame."""
        numbers = torch.arange(batch_size, dtype=torch.int64)
        spec = self.world.actions
        dtype = torch.int64 if spec.kind == "discrete" else torch.float32
        nothing = torch.zeros((batch_size, *spec.shape), dtype=dtype, device=self.world.device)
        return AgentState(self.world.start(batch_size, hash64(hash64(numbers) ^ self.seed)), nothing)

    @torch.no_grad()
    def predict(
        self,
        observation: Mapping[str, Any],
        state: AgentState | None = None,
        episode_start: Any = None,
        deterministic: bool = True,
    ) -> tuple[Any, AgentState]:
        """Look, remember and act, as Stable-Baselines3's models do, in one world or in B.

        Args:
            observation: ``"frame"`` (H, W, 3) or (B, H, W, 3) uint8, and ``"pose"`` (5,) or (B, 5) canonical.
            state: what the last call returned; None before the first frame.
            episode_start: (B,) bool, worlds whose episode begins with this observation: what was before is forgotten.
            deterministic: take the likeliest action instead of a drawn one.

        Returns:
            The action, or actions (B, ...), and what is known now.

        Raises:
            ValueError: an observation without a frame or a pose, of another size, or of another number of worlds.
        """
        if not {"frame", "pose"} <= set(observation):
            raise ValueError(f"An agent needs a frame and its pose; got an observation of {sorted(observation)}.")
        frames, poses = torch.as_tensor(observation["frame"]), torch.as_tensor(observation["pose"])
        single = frames.ndim == 3
        if single:
            frames, poses = frames.unsqueeze(0), poses.unsqueeze(0)
        known = self.begin(len(frames)) if state is None else self._begun_again(state, episode_start)
        seen = self.world.observe(known.world, frames.unsqueeze(1), known.acted.unsqueeze(1), poses.unsqueeze(1))
        vectors = self.world.encode_state(seen)
        policy = self.heads.policy
        actions = policy.best(vectors) if deterministic else policy.act(vectors, draws(seen, self.world.actions.n))
        after = AgentState(seen, actions)
        chosen = actions.cpu().numpy()
        if not single:
            return chosen, after
        return int(chosen[0]) if self.world.actions.kind == "discrete" else chosen[0], after

    def keep(self, state: AgentState, rows: Any) -> AgentState:
        """What is known of worlds ``rows`` (M,) alone, which live on as they would have among the others."""
        here = torch.as_tensor(rows, device=self.world.device)
        return AgentState(state.world[here], state.acted[here])

    @torch.no_grad()
    def act(self, vectors: Tensor, uniform: Tensor) -> Tensor:
        """Actions (M, ...) in states (M, D), chosen by random numbers (M, n)."""
        return self.heads.policy.act(vectors, uniform)

    @torch.no_grad()
    def probabilities(self, vectors: Tensor) -> Tensor:
        """Probabilities (M, K) of the keys in states (M, D).

        Raises:
            ConfigError: actions are vectors.
        """
        return self.heads.policy.probabilities(vectors)

    def value(self, vectors: Tensor) -> Tensor:
        """Discounted reward (M,) to be expected from states (M, D) on; differentiable in them."""
        return self.heads.critic.value(vectors)

    def save(self, directory: Path, about: dict[str, Any] | None = None) -> None:
        """Write ``agent.json`` and ``weights.safetensors``; an agent already there stays loadable until this is whole.

        Args:
            directory: where; made if missing.
            about: where the agent comes from, kept as JSON for readers.
        """
        heads = self.heads
        kind: dict[str, Any]
        if isinstance(heads, ActorCritic):
            kind = {"format": FORMAT, "size": heads.size, "tokens": heads.tokens}
            weights = heads.state_dict()
        else:
            kind, weights = {"format": SB3_FORMAT, "shape": asdict(heads.shape)}, dict(heads.named_parameters())
        description = {
            **kind,
            "config": asdict(heads.config),
            "actions": heads.spec.to_json(),
            "world": self.world.to_json() if isinstance(self.world, FrameStack) else world_name(self.world, directory),
            "perception": perception(self.world),
            "about": about or {},
        }
        write_agent(directory, description, weights)

    def _begun_again(self, state: AgentState, episode_start: Any) -> AgentState:
        if episode_start is None:
            return state
        begun = torch.as_tensor(np.atleast_1d(np.asarray(episode_start, bool))).to(state.acted.device)
        if len(begun) != state.world.batch_size:
            raise ValueError(f"episode_start is of {len(begun)} worlds; there are {state.world.batch_size}.")
        if not bool(begun.any()):
            return state
        # Another episode, other chances.
        fresh = self.begin(len(begun)).world.with_seeds(hash64(state.world.seeds))
        acted = torch.where(begun.view(-1, *[1] * (state.acted.ndim - 1)), torch.zeros_like(state.acted), state.acted)
        return replace(state, world=fresh.where(begun, state.world), acted=acted)


def load_agent(path: str | Path, world: World | None = None, device: str = "cpu", seed: int = 0) -> Agent:
    """Open a trained agent of any kind. Loading one never executes code.

    Args:
        path: a bundled agent (``"find-near"``), or the directory that training or `Agent.save` wrote.
        world: the world it perceives through; default: the one it was trained in, by its bundled name or where it lay
            from the agent when that was saved. An agent that learned from frames alone brings its own.
        device: where to compute, if the world is loaded here.
        seed: of the choices of `Agent.predict`.

    Raises:
        WorldFormatError: no such agent; files missing, damaged, of another version or not of one agent; or its world is
            gone.
        ConfigError: the world perceives otherwise than the one it was trained in; or the agent's heads are those of
            Stable-Baselines3, which is not installed.
    """
    stored = read_agent(Path(path))
    heads = _heads(stored)
    world = stored.world(heads.spec, world, device)
    return Agent(world, heads.to(world.device), seed)


def _heads(stored: StoredAgent) -> ActorCritic | Sb3Heads:
    kind = stored.description["format"]
    if kind == SB3_FORMAT:
        check_installed()
    try:
        data, spec = stored.description["config"], ActionSpec.from_json(stored.description["actions"])
        if kind == SB3_FORMAT:
            from .sb3_heads import heads_from

            return heads_from(stored.description["shape"], spec, data, stored.weights)
        if kind != FORMAT:
            raise ValueError(f"its format is {kind!r}, not {FORMAT!r} or {SB3_FORMAT!r}")
        config = ActorCriticConfig(**{**data, "heads": HeadsConfig(**data["heads"])})
        tokens = stored.description["tokens"]
        shape = None if tokens is None else (int(tokens[0]), int(tokens[1]))
        heads = ActorCritic(int(stored.description["size"]), spec, config, shape)
        heads.load_state_dict(stored.weights)
    except (ValueError, KeyError, TypeError, RuntimeError, ConfigError) as error:
        raise stored.damaged(error) from error
    return heads
