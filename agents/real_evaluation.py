"""`RealEvaluation`: a callback of Stable-Baselines3 that lets the agent act in the real world every so often."""

from __future__ import annotations

from collections.abc import Callable

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback

from .agent import Agent
from .trials import RealTrials


class RealEvaluation(BaseCallback):
    """Real episodes while a model learns: curves ``real/success``, ``real/return``, ``real/length``; the best is kept.

    Example:
        >>> trials = RealTrials(make_env, TrialsConfig(every=10_000), Path("runs/mine"))       # doctest: +SKIP
        >>> callback = RealEvaluation(lambda model: sb3_agent(model, world), trials)           # doctest: +SKIP
        >>> model.learn(100_000, callback)                                                     # doctest: +SKIP

    Training ends where the trials say that it is good enough.

    Args:
        agent: makes an agent of the model as it is.
        trials: when and how it is tried.
    """

    def __init__(self, agent: Callable[[BaseAlgorithm], Agent], trials: RealTrials) -> None:
        super().__init__()
        self._agent, self._trials = agent, trials
        self.stopped = False
        """Whether it was good enough."""

    def _on_step(self) -> bool:
        now = self.num_timesteps
        if not self._trials.due(now - self.training_env.num_envs, now):
            return True
        agent = self._agent(self.model)
        trial = self._trials.run(agent, now, lambda directory: agent.save(directory, {"steps": now}))
        for name, number in trial.scalars().items():
            self.logger.record(f"real/{name}", number)
        self.logger.dump(now)
        self.stopped = self._trials.enough(trial)
        return not self.stopped
