"""λ-returns, against loops that anyone can check, and against the bugs that others have had."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from worldloop.agents.returns import ReturnScale, chances, lambda_returns

GAMMA, LAMBDA = 0.9, 0.8


def some(h: int = 7, b: int = 4, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rewards, continues and values of the states arrived at, (B, H) each."""
    generator = torch.Generator().manual_seed(seed)
    rewards, values = torch.randn(2, b, h, generator=generator, dtype=torch.float64)
    return rewards, torch.rand(b, h, generator=generator, dtype=torch.float64), values


def slow(rewards: np.ndarray, continues: np.ndarray, values: np.ndarray) -> list[float]:
    """λ-returns as defined: (1 - λ) Σ λ^(n-1) of all n-step returns, where the last has the weight that is left."""
    h = len(rewards)

    def n_step(t: int, n: int) -> float:
        total, factor = 0.0, 1.0
        for k in range(t, t + n):
            total += factor * rewards[k]
            factor *= GAMMA * continues[k]
        return total + factor * values[t + n - 1]

    returns = []
    for t in range(h):
        longest = h - t
        mixed = sum((1 - LAMBDA) * LAMBDA ** (n - 1) * n_step(t, n) for n in range(1, longest))
        returns.append(mixed + LAMBDA ** (longest - 1) * n_step(t, longest))
    return returns


def test_lambda_returns_are_the_weighed_sum_of_all_n_step_returns() -> None:
    rewards, continues, values = some()
    ours = lambda_returns(rewards, continues, values, GAMMA, LAMBDA)
    for b in range(len(rewards)):
        assert ours[b].tolist() == pytest.approx(slow(rewards[b].numpy(), continues[b].numpy(), values[b].numpy()))


def test_lambda_one_adds_up_rewards_and_lambda_zero_looks_one_step_ahead() -> None:
    rewards, _, values = some()
    on = torch.ones_like(rewards)
    h = rewards.shape[1]
    whole = sum(GAMMA**t * rewards[:, t] for t in range(h)) + GAMMA**h * values[:, -1]
    assert torch.allclose(lambda_returns(rewards, on, values, GAMMA, 1.0)[:, 0], whole)
    assert torch.allclose(lambda_returns(rewards, on, values, GAMMA, 0.0), rewards + GAMMA * values)


def test_credit_goes_to_the_step_that_was_paid_and_to_those_before_it_alone() -> None:
    rewards = torch.zeros(1, 5)
    rewards[0, 2] = 1
    ours = lambda_returns(rewards, torch.ones(1, 5), torch.zeros(1, 5), GAMMA, 1.0)[0].tolist()
    assert ours == pytest.approx([GAMMA**2, GAMMA, 1, 0, 0])


@pytest.mark.parametrize("trace", [0.0, 0.5, 1.0])
def test_nothing_is_counted_past_a_termination(trace: float) -> None:
    rewards, continues, values = some()
    continues[:, 3] = 0
    ours = lambda_returns(rewards, continues, values, GAMMA, trace)
    other, _, others = some(seed=1)
    rewards[:, 4:], values[:, 3:] = 100 * other[:, 4:], 100 * others[:, 3:]
    again = lambda_returns(rewards, continues, values, GAMMA, trace)
    assert torch.equal(ours[:, :4], again[:, :4]) and not torch.equal(ours[:, 4:], again[:, 4:])
    assert torch.allclose(ours[:, 3], rewards[:, 3])


@pytest.mark.parametrize("trace", [0.0, 0.5, 1.0])
def test_at_a_truncation_the_value_stands_for_the_rest_and_the_next_episode_does_not_leak_in(trace: float) -> None:
    rewards, continues, values = some()
    cut = torch.zeros(rewards.shape, dtype=torch.bool)
    cut[:, 3] = True
    ours = lambda_returns(rewards, continues, values, GAMMA, trace, cut)
    assert torch.allclose(ours[:, 3], rewards[:, 3] + GAMMA * continues[:, 3] * values[:, 3])
    # The beginning is what it would be if the roll-out ended there, at its horizon.
    short = lambda_returns(rewards[:, :4], continues[:, :4], values[:, :4], GAMMA, trace)
    assert torch.allclose(ours[:, :4], short)
    if trace:
        assert not torch.allclose(ours, lambda_returns(rewards, continues, values, GAMMA, trace))


def test_a_termination_at_the_time_limit_is_a_termination() -> None:
    rewards, values = torch.ones(1, 2), torch.full((1, 2), 50.0)
    both = torch.tensor([[False, True]])
    ours = lambda_returns(rewards, torch.tensor([[1.0, 0.0]]), values, GAMMA, 1.0, both)
    assert ours[0].tolist() == pytest.approx([1 + GAMMA, 1])


def test_one_world_that_ended_does_not_cut_the_others_short() -> None:
    rewards, continues, values = some()
    alone = lambda_returns(rewards[1:], continues[1:], values[1:], GAMMA, LAMBDA)
    continues[0] = 0
    assert torch.allclose(lambda_returns(rewards, continues, values, GAMMA, LAMBDA)[1:], alone)


def test_gradients_of_returns_are_those_of_finite_differences() -> None:
    inputs = tuple(x.requires_grad_() for x in some(h=4))
    assert torch.autograd.gradcheck(lambda r, c, v: lambda_returns(r, c, v, GAMMA, LAMBDA), inputs)


def test_shapes_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match="one shape"):
        lambda_returns(torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(2, 4), GAMMA, LAMBDA)


def test_losses_count_with_the_probability_of_getting_there() -> None:
    continues = torch.tensor([[1.0, 0.5, 0.0, 1.0]])
    assert chances(continues)[0].tolist() == [1, 1, 0.5, 0]


def test_returns_are_measured_by_the_range_between_percentiles_never_magnified() -> None:
    scale = ReturnScale(least=1.0, decay=0.9)
    returns = torch.linspace(0, 40, 1001)
    returns[-3:] = 1e6
    scale.update(returns)
    assert float(scale.scale) == pytest.approx(36.0, rel=1e-2), "a few extremes do not count"
    scale.update(torch.zeros(10))
    assert float(scale.scale) == pytest.approx(0.9 * 36.0, rel=1e-2)
    quiet = ReturnScale(least=1.0)
    quiet.update(torch.rand(100) * 1e-3)
    assert float(quiet.scale) == 1.0
