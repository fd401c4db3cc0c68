"""Agents by Stable-Baselines3: `train_with_sb3` in imagination; `train_in_reality`, the baseline that imagines nothing.

Both are checkpointed between roll-outs, go on where they were interrupted, and stop with the last good checkpoint where
something is no number any more.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecFrameStack, VecMonitor

from ..envs.contexts import Contexts
from ..envs.explorers import action_spec
from ..envs.sb3 import ImaginedVecEnv
from ..errors import ConfigError
from ..world_models.training.config import StageConfig
from ..world_models.training.run_directory import claim
from ..world_models.world import World
from .agent import Agent
from .cloning import Recorded, check_recorded, cloning_training, imitate
from .films import filmed
from .frame_stack import FrameStack
from .imagined_batch import check_states, tokens_of
from .real_evaluation import RealEvaluation
from .sb3_config import EXPLORES, Algorithm, Sb3Config
from .sb3_heads import ALGORITHMS, Sb3Heads, Sb3Shape, check_actions, heads_of
from .sb3_learning import Learning, learn
from .stages import Watch
from .stored import perception
from .trials import MakeEnv, RealTrials

_LEAST_SIDE = 36
"""Pixels that NatureCNN needs."""


def train_with_sb3(
    world: World,
    contexts: Contexts,
    out: Path,
    algorithm: Algorithm = "PPO",
    steps: int = 200_000,
    time_limit: int = 50,
    config: Sb3Config | None = None,
    *,
    curiosity: float = 0.0,
    imitated: Recorded | None = None,
    imitating: StageConfig | None = None,
    trials: RealTrials | None = None,
    seed: int = 0,
    film_every: int = 25_000,
    stop_after: int | None = None,
    about: dict[str, Any] | None = None,
    watch: Watch = lambda progress, watched: None,
) -> Agent | None:
    """Train an agent in a learned world with Stable-Baselines3, or go on with a run that was interrupted.

    Episodes of `ImaginedVecEnv` begin with the recorded starts; what is observed is the state vector. ``out`` receives
    what `train_in_imagination` writes, ``trials.json`` and ``best`` too. A run of PPO or A2C that is finished goes on
    where more ``steps`` are asked for, as if it had been asked for them at first; where the learning rate falls, that
    is another run.

    Args:
        world: where to imagine.
        contexts: recorded starts.
        out: directory of the run.
        algorithm: which one.
        steps: imagined, in all environments together, rounded up to whole roll-outs.
        time_limit: imagined steps after which an episode is truncated.
        config: how it learns.
        curiosity: reward of imagined steps that show what memory has not, see `ImaginedVecEnv`.
        imitated: what was done in these recordings, and what came of it, is where policy and critic begin, see
            `imitate`; default: they know nothing.
        imitating: steps, batch size, learning rate of that.
        trials: in the real world, at so many imagined steps; none by default.
        seed: of everything random.
        film_every: imagined steps between strips of imagined lives.
        stop_after: end after this step, as an interruption would.
        about: where the agent comes from, kept with it.
        watch: called after every step of all environments.

    Returns:
        The agent, or None where ``stop_after`` ended the run before that.

    Raises:
        ConfigError: an algorithm that does not fit the actions or cannot imitate, a world without a state space or
            without the tokens that are asked for, starts or recordings of another world, or ``out`` holds another run.
        DataError: there is nothing to imitate.
        Diverged: something became NaN; the last checkpoint is kept.
    """
    config = config or Sb3Config()
    check_states(world)
    check_actions(algorithm, world.actions)
    tokens = tokens_of(world, config.tokens)
    shape = Sb3Shape(algorithm, (world.state_size,), (config.width,) * config.layers, tokens)
    imagined = ImaginedVecEnv(world, config.envs, contexts, time_limit, "state", curiosity=curiosity)
    told = f"{_told(algorithm, steps, config)} {time_limit} {curiosity} {seed} {perception(world)}"
    imitating = imitating or cloning_training()
    if imitated is not None:
        if algorithm == "DQN":
            raise ConfigError("DQN has no policy that could imitate: choose PPO or A2C.")
        check_recorded(world, imitated)
        told += f" {imitated.to_json()} {imitating.fingerprint()}"
    digest = hashlib.sha256(told.encode())
    for array in contexts.experience():
        digest.update(array.tobytes())
    with closing(VecMonitor(imagined)) as envs:
        model = _model(shape, envs, config, steps, seed, str(world.device))
        acting = heads_of(model, world.actions, config).policy
        learning = Learning(f"{algorithm} in imagination", out, digest.hexdigest()[:16], config.whole(algorithm, steps),
                            config.checkpoint_every, stop_after, watch,
                            lambda: filmed(world, contexts, acting, time_limit), film_every)  # fmt: skip

        def begin(heads: Sb3Heads) -> None:
            if imitated is not None:
                imitate(
                    heads, world, imitated, imitating, out / "cloning.safetensors", learning.fingerprint,
                    discount=config.discount, seed=seed, watch=watch,
                )  # fmt: skip

        return _train(model, world, config, learning, trials, seed, about, "imagined", begin)


def train_in_reality(
    make_env: MakeEnv,
    out: Path,
    steps: int,
    config: Sb3Config | None = None,
    *,
    frames: int = 4,
    identity: str = "",
    trials: RealTrials | None = None,
    seed: int = 0,
    device: str = "cpu",
    stop_after: int | None = None,
    about: dict[str, Any] | None = None,
    watch: Watch = lambda progress, watched: None,
) -> Agent | None:
    """Train PPO in the real world itself, on its last frames: the baseline that a learned world is held against.

    Files, resuming and errors are those of `train_with_sb3`. Episodes in progress go on after an interruption where the
    environment has ``save_state`` and ``load_state``, as DoomRooms does; elsewhere new ones begin.

    Args:
        make_env: makes a real environment with frames (H, W, 3) uint8 and an ``action_spec``; called
            ``config.envs`` times.
        out: directory of the run.
        steps: real, in all environments together, rounded up to whole roll-outs. Those of trials come on top, and are
            told apart in ``agent.json``.
        config: how it learns.
        frames: that are seen at once.
        identity: what tells these environments from others.
        trials: on held-out maps, at so many real steps; none by default.
        seed: of everything random.
        device: where the network computes.
        stop_after: end after this step, as an interruption would.
        about: where the agent comes from, kept with it.
        watch: called after every step of all environments.

    Raises:
        ConfigError: an environment with other observations or without an ``action_spec``, or ``out`` holds another run.
        Diverged: something became NaN; the last checkpoint is kept.
    """
    config = config or Sb3Config()
    real = DummyVecEnv([make_env] * config.envs)
    with closing(VecFrameStack(VecMonitor(real), frames)) as envs:
        spec, (height, width) = action_spec(real.envs[0]), _frame_size(real)
        world = FrameStack((height, width), spec, frames, device)
        shape = Sb3Shape("PPO", (3 * frames, height, width), ())
        key = hashlib.sha256(f"{_told('PPO', steps, config)} {seed} {world.to_json()} {spec} {identity}".encode())
        learning = Learning("PPO in the real world", out, key.hexdigest()[:16], config.whole("PPO", steps),
                            config.checkpoint_every, stop_after, watch)  # fmt: skip
        model = _model(shape, envs, config, steps, seed, device)
        return _train(model, world, config, learning, trials, seed, about, "real")


def sb3_agent(model: BaseAlgorithm, world: World, config: Sb3Config | None = None, seed: int = 0) -> Agent:
    """A model of Stable-Baselines3 as an agent that acts in real worlds; it shares the model's parameters.

    Args:
        model: PPO, A2C or DQN with an ``MlpPolicy``, of `ImaginedVecEnv` with the observation ``"state"``.
        world: in which it learned.
        config: how it learned, kept with the agent.
        seed: of the choices of `Agent.predict`.

    Raises:
        ConfigError: a model of other observations or actions, or with networks of its user's own.
    """
    heads = heads_of(model, world.actions, config)
    return Agent(world, heads, seed)


def _train(
    model: BaseAlgorithm,
    world: World,
    config: Sb3Config,
    learning: Learning,
    trials: RealTrials | None,
    seed: int,
    about: dict[str, Any] | None,
    steps_are: str,
    begin: Callable[[Sb3Heads], None] = lambda heads: None,
) -> Agent | None:
    claim(learning.out, learning.fingerprint)
    agent = sb3_agent(model, world, config, seed)
    if not learning.checkpoint.exists():
        assert isinstance(agent.heads, Sb3Heads)
        begin(agent.heads)
    evaluation = None if trials is None else RealEvaluation(lambda _: agent, trials)
    learned = learn(model, learning, evaluation)
    if not learned.finished:
        return None
    if not learned.paid:
        warnings.warn("Nothing was ever paid: this agent has learned nothing.", stacklevel=3)
    lived = {steps_are: model.num_timesteps, "real, in trials": trials.real_steps if trials else 0}
    agent.save(learning.out / "agent", {"seed": seed, "steps": lived, **(about or {})})
    return agent


def _model(
    shape: Sb3Shape, envs: VecEnv, config: Sb3Config, steps: int, seed: int, device: str
) -> BaseAlgorithm:
    algorithm = shape.algorithm
    rollout = config.rollout_of(algorithm)
    own: dict[str, Any] = {"PPO": {
        "n_steps": rollout, "batch_size": min(config.batch_size, rollout * config.envs), "n_epochs": config.epochs,
        "ent_coef": config.entropy,
    }, "A2C": {
        "n_steps": rollout, "ent_coef": config.entropy,
    }, "DQN": {
        "batch_size": config.batch_size, "buffer_size": config.buffer, "learning_starts": min(1000, steps // 10),
        # One update for every four steps, as there with one environment.
        "train_freq": 1, "gradient_steps": max(1, config.envs // 4), "target_update_interval": config.target_interval,
        "exploration_fraction": config.exploration, "exploration_final_eps": EXPLORES,
    }}[algorithm]  # fmt: skip
    falling = LinearSchedule(config.learning_rate, 0.0, 1.0)
    rate = falling if config.schedule == "linear" else config.learning_rate
    own |= {"learning_rate": rate, "gamma": config.discount, "policy_kwargs": shape.settings}
    with warnings.catch_warnings():
        # The network computes where the world does: what is copied to and fro costs more than it.
        warnings.filterwarnings("ignore", "You are trying to run")
        return ALGORITHMS[algorithm](shape.policy, envs, seed=seed, device=device, **own)


def _frame_size(envs: VecEnv) -> tuple[int, int]:
    space = envs.observation_space
    shape = space.shape or ()
    if not (isinstance(space, gym.spaces.Box) and space.dtype == np.uint8 and len(shape) == 3 and shape[2] == 3):
        raise ConfigError(f"PPO in the real world sees frames (H, W, 3) uint8; this environment has {space}.")
    if min(shape[:2]) < _LEAST_SIDE:
        raise ConfigError(f"NatureCNN needs frames of at least {_LEAST_SIDE} x {_LEAST_SIDE} pixels; got {shape[:2]}.")
    return int(shape[0]), int(shape[1])


def _told(algorithm: Algorithm, steps: int, config: Sb3Config) -> str:
    """What a run depends on: how many steps there are is part of it only where that changes how it learns."""
    told = {name: value for name, value in asdict(config).items() if name != "checkpoint_every"}
    if algorithm == "DQN" or config.schedule == "linear":
        told["steps"] = config.whole(algorithm, steps)
    return f"{algorithm} {json.dumps(told)}"
