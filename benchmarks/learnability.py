"""Can a standard agent learn the real task? SB3's PPO on training maps, judged on maps it has never seen.

python -m worldloop.benchmarks.learnability --level near --steps 300000 --seed 0 --out learnability.json
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv

from ..envs.doom_rooms.env import DoomRoomsEnv
from ..evaluation.metrics import wilson
from ..files import write_json


@dataclass(frozen=True)
class Config:
    """Train PPO in the real rooms and measure its success on validation maps."""

    level: Literal["near", "next", "far"] = "near"
    """How far the goal is from the start."""
    steps: int = 300_000
    """Real environment steps to train for."""
    seed: int = 0
    """Seed of maps, starts, network and exploration."""
    n_envs: int = 8
    """Environments side by side."""
    threads: int = 2
    """Threads of torch."""
    episodes: int = 200
    """Validation episodes to judge by."""
    shaping: bool = False
    """Train with the potential-based reward term."""
    out: Path = Path("learnability.json")
    """Where to write the result."""


def main() -> None:
    """Run the benchmark and write its result as JSON."""
    config = tyro.cli(Config)
    torch.set_num_threads(config.threads)
    environments = DummyVecEnv([_maker(config, "train") for _ in range(config.n_envs)])
    environments.seed(config.seed)
    agent = PPO(
        "CnnPolicy", environments, n_steps=128, batch_size=256, n_epochs=4, learning_rate=3e-4, ent_coef=0.01,
        gamma=0.98, gae_lambda=0.95, clip_range=0.2, seed=config.seed, device="cpu",
    )  # fmt: skip
    progress = _Progress()
    started = time.perf_counter()
    agent.learn(config.steps, callback=progress)
    seconds = time.perf_counter() - started
    environments.close()
    result = {
        "config": {**asdict(config), "out": str(config.out)},
        "training_seconds": round(seconds, 1),
        "steps_per_second": round(config.steps / seconds),
        "curve": progress.curve,
        "sampled_actions": evaluate(agent, config, deterministic=False),
        "most_likely_actions": evaluate(agent, config, deterministic=True),
        "random_actions": evaluate(None, config, deterministic=False),
    }
    write_json(config.out, result)
    print(json.dumps({k: v for k, v in result.items() if k != "curve"}, indent=2))


def evaluate(agent: PPO | None, config: Config, deterministic: bool) -> dict[str, Any]:
    """Success on the first validation maps, one episode each; without an agent, of random actions."""
    env = DoomRoomsEnv(task="find", level=config.level, split="validation")
    env.action_space.seed(config.seed)
    first, successes, steps = 100_000, 0, 0
    for episode in range(config.episodes):
        frame, info = env.reset(seed=episode, options={"map_seed": first + episode})
        over = False
        while not over:
            action = (
                env.action_space.sample() if agent is None else agent.predict(frame, deterministic=deterministic)[0]
            )
            frame, _, terminated, truncated, info = env.step(int(action))
            over, steps = terminated or truncated, steps + 1
        successes += bool(info["success"])
    env.close()
    success = wilson(successes, config.episodes)
    return {
        "success": success.estimate,
        "interval_95": [round(success.low, 3), round(success.high, 3)],
        "episodes": config.episodes,
        "mean_steps": round(steps / config.episodes, 1),
    }


class _Progress(BaseCallback):
    """Success of the latest 100 training episodes, every 10 000 steps."""

    def __init__(self) -> None:
        super().__init__()
        self.curve: list[dict[str, float]] = []
        self._recent: list[bool] = []

    def _on_step(self) -> bool:
        for done, info in zip(self.locals["dones"], self.locals["infos"], strict=True):
            if done:
                self._recent = [*self._recent[-99:], bool(info["success"])]
        if self.num_timesteps // 10_000 > len(self.curve) and self._recent:
            share = sum(self._recent) / len(self._recent)
            self.curve.append({"steps": self.num_timesteps, "training_success": share})
            print(f"{self.num_timesteps:8d} steps  success of the latest episodes {share:.2f}", flush=True)
        return True


def _maker(config: Config, split: Literal["train", "validation"]) -> Callable[[], DoomRoomsEnv]:
    def make() -> DoomRoomsEnv:
        torch.set_num_threads(1)
        return DoomRoomsEnv(task="find", level=config.level, split=split, shaping=config.shaping)

    return make


if __name__ == "__main__":
    main()
