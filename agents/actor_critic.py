"""Actor and critic, and what they learn from imagined experience."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from ..world_models.actions import ActionSpec
from .heads import HeadsConfig, QHead, ValueHead, follow, given_parameters, target_of
from .imagined_batch import ImaginedBatch
from .policies import make_policy
from .returns import ReturnScale, chances, lambda_returns

Estimator = Literal["reinforce", "dynamics", "q"]
"""How the policy's gradient is told: ``"reinforce"``: ∇ log π(a|s) · advantage, for every world and every action;
``"dynamics"``: through the imagined steps themselves, for vectors in a differentiable world; ``"q"``: towards
argmax_a Q(s, a), for every world: through what Q says of all keys, ∇ Σ_a π(a|s) Q(s, a), or of the vector that was
drawn, and by ∇ log π(a|s) · (R - Q(s, a)) where it is wrong, so that it is on average what reinforce is (Q-Prop, Gu et
al. 2017)."""

SHAPING = 0.1
"""In joint training, what the critic's gradient counts on its way into the states (TD-MPC2 weighs value by 0.1)."""


@dataclass(frozen=True)
class ActorCriticConfig:
    """How an agent learns from imagined experience."""

    heads: HeadsConfig = field(default_factory=HeadsConfig)
    """Sizes."""
    horizon: int = 15
    """Imagined steps after each recorded start."""
    first_horizon: int = 5
    """Curriculum: imagined steps at the beginning of training."""
    full_horizon: float = 0.3
    """Share of the training after which the horizon is full."""
    discount: float = 0.985
    """γ, per step."""
    trace: float = 0.95
    """λ of the returns."""
    entropy: float = 1e-3
    """Weight of the policy's entropy, over normalised advantages."""
    uncertainty_price: float = 0.0
    """What a unit of the world's uncertainty costs at every step (MOPO): where imagination is not to be trusted,
    nothing is to be gained."""
    estimator: Estimator = "reinforce"
    """How the policy's gradient is told: reinforce (anything), dynamics (vectors, differentiable worlds), or q
    (anything; learns Q(s, a), too)."""
    target_rate: float = 0.02
    """Share of the way that the target critic moves towards the critic at every step (EMA)."""
    anchor: float = 1.0
    """Weight of staying near what the target critic says."""
    least_scale: float = 1.0
    """Ranges of returns below this are not magnified."""

    def __post_init__(self) -> None:
        if not 1 <= self.first_horizon <= self.horizon:
            raise ConfigError(f"Horizons are 1 <= first_horizon <= horizon; got {self.first_horizon}, {self.horizon}.")
        shares = {"discount": self.discount, "trace": self.trace, "target_rate": self.target_rate}
        for name, share in {**shares, "full_horizon": self.full_horizon}.items():
            if not 0 <= share <= 1:
                raise ConfigError(f"{name} lies in 0 … 1; got {share}.")
        if min(self.entropy, self.anchor, self.uncertainty_price) < 0 or not self.least_scale > 0:
            raise ConfigError("entropy, anchor and uncertainty_price are at least 0, and least_scale is above 0.")
        if self.estimator not in get_args(Estimator):
            raise ConfigError(f"estimator is one of {', '.join(get_args(Estimator))}; got {self.estimator!r}.")

    def horizon_at(self, step: int, steps: int) -> int:
        """H at training step ``step`` of ``steps``: from first_horizon to horizon, evenly."""
        done = min(1.0, step / max(1.0, self.full_horizon * steps))
        return round(self.first_horizon + done * (self.horizon - self.first_horizon))


class ActorCritic(nn.Module):
    """Policy, value with its target, and, where the policy learns by it, Q.

    What learns from what (a bar marks a stopped gradient; R is the λ-return of rewards, less the price of uncertainty,
    and the target critic's values):

    - critic: CE(V(s), R̄) + anchor · CE(V(s), V̄_target(s)); its gradient reaches s only in joint training;
    - Q: CE(Q(s̄, ā), R̄);
    - actor, reinforce: − log π(ā | s̄) · (R̄ − V̄(s)) / scale; dynamics: − R / scale along the imagined steps, the
      policy seeing s̄, world and critic being given; q: − (q(s̄) + log π(ā | s̄) · (R̄ − Q̄(s̄, ā))) / scale with
      q(s̄) = Σ_a π(a | s̄) Q̄(s̄, a) for keys and Q(s̄, π(s̄)) for vectors, Q being given; all − entropy · H(π(s̄));
    - everything is weighed by the probability of getting that far, which gets no gradient.

    Args:
        size: D of state vectors.
        spec: the world's actions.
        config: how to learn.
        tokens: T and W, of which the first T · W numbers of state vectors are, where they are to be seen token by
            token; None: all at once.

    Raises:
        ConfigError: an estimator that does not fit the actions, or tokens where ``config.heads`` wants none.
    """

    def __init__(
        self, size: int, spec: ActionSpec, config: ActorCriticConfig, tokens: tuple[int, int] | None = None
    ) -> None:
        super().__init__()
        if config.heads.tokens != (tokens is not None):
            raise ConfigError(f"heads.tokens is {config.heads.tokens}, and the tokens given are {tokens}.")
        if config.estimator == "dynamics" and spec.kind == "discrete":
            raise ConfigError("Keys have no slope to follow through the dynamics: choose estimator='reinforce' or 'q'.")
        self.size, self.spec, self.config, self.tokens = size, spec, config, tokens
        self.policy = make_policy(size, spec, config.heads, tokens)
        self.critic = ValueHead(size, config.heads, tokens)
        self.target = target_of(self.critic)
        self.q = QHead(size, spec, config.heads, tokens) if config.estimator == "q" else None
        self.scale = ReturnScale(config.least_scale)

    def track(self) -> None:
        """Let the target critic follow; once for every step of the optimiser."""
        follow(self.target, self.critic, self.config.target_rate)

    def losses(self, batch: ImaginedBatch, shape_states: bool = False) -> tuple[dict[str, Tensor], dict[str, float]]:
        """Losses to minimise, and numbers to watch.

        Args:
            batch: imagined experience; with the estimator ``"dynamics"`` imagined with gradients.
            shape_states: let the critic's gradient, weighed by `SHAPING`, flow on into the states.

        Raises:
            ConfigError: with the estimator ``"dynamics"``, no gradient comes through the world.
        """
        config = self.config
        given = batch.vectors.detach()
        before = given[:, :-1]
        returns = self._returns(batch)
        fixed = returns.detach()
        self.scale.update(fixed)
        weights = chances(batch.continues.detach())
        entropy = self.policy.entropy(before)
        seen = torch.lerp(before, batch.vectors[:, :-1], SHAPING) if shape_states else before
        logits = self.critic.logits(seen)
        members = self.critic.two_hot.mean(logits.detach())
        values = members.mean(-1)
        with torch.no_grad():
            anchor = self.target.value(before)
        critic = self.critic.loss(logits, fixed) + config.anchor * self.critic.loss(logits, anchor)
        gains = self._gains(batch, returns, values) / self.scale.scale
        losses = {
            "actor": -_mean(gains, weights),
            "entropy": -config.entropy * _mean(entropy, weights),
            "critic": _mean(critic, weights),
        }
        if self.q is not None:
            losses["q"] = _mean(self.q.loss(before, batch.actions.detach(), fixed), weights)
        watched = {
            "return": fixed[:, 0].mean(),
            "reward": (batch.rewards.detach() * weights).sum(1).mean(),
            "value": _average(values, weights),
            "spread": _average(members.std(-1, correction=0), weights),
            "entropy": _average(entropy, weights),
            "uncertainty": _average(batch.uncertainty.detach(), weights),
            "scale": self.scale.scale,
            "ended": 1 - batch.continues.prod(1).mean(),
        }
        return losses, {name: float(number.detach()) for name, number in watched.items()}

    def _returns(self, batch: ImaginedBatch) -> Tensor:
        """λ-returns (B, H); gradients flow through them with the estimator ``"dynamics"`` alone."""
        config = self.config
        rewards = batch.rewards - config.uncertainty_price * batch.uncertainty
        if config.estimator != "dynamics":
            with torch.no_grad():
                after = self.target.value(batch.vectors[:, 1:])
                return lambda_returns(rewards, batch.continues, after, config.discount, config.trace)
        after = self.target.value(batch.vectors[:, 1:])
        returns = lambda_returns(rewards, batch.continues, after, config.discount, config.trace)
        if not returns.requires_grad:
            raise ConfigError("No gradient comes through this world's steps: choose estimator='reinforce'.")
        return returns

    def _gains(self, batch: ImaginedBatch, returns: Tensor, values: Tensor) -> Tensor:
        """(B, H) what the actor maximises, up to its scale."""
        if self.config.estimator == "dynamics":
            return returns
        given, actions = batch.vectors[:, :-1].detach(), batch.actions.detach()
        likely = self.policy.log_prob(given, actions)
        if self.q is None:
            return likely * (returns - values)
        with given_parameters(self.q):
            if self.spec.kind == "discrete":
                worth = self.q.of_keys(given)
                told = worth.gather(-1, actions.unsqueeze(-1)).squeeze(-1)
                expected = (self.policy.probabilities(given) * worth).sum(-1)
            else:
                told = self.q.value(given, actions)
                expected = self.q.value(given, self.policy.act(given, batch.draws))
        return expected + likely * (returns - told)


def _mean(numbers: Tensor, weights: Tensor) -> Tensor:
    return (numbers * weights).mean()


def _average(numbers: Tensor, weights: Tensor) -> Tensor:
    return (numbers * weights).sum() / weights.sum()
