"""Heads: two-hot values, targets that follow, policies over keys and over vectors."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from toy_world import AXES, KEYS

from worldloop.agents.heads import TOKEN_FEATURES, HeadsConfig, QHead, TokenLayers, ValueHead, follow, mlp, target_of
from worldloop.agents.policies import UNIFORM, BoxPolicy, KeysPolicy, PolicyHead, make_policy
from worldloop.agents.two_hot import TwoHot, symexp, symlog
from worldloop.errors import ConfigError

SIZE = 6
SMALL = HeadsConfig(width=16, layers=2, members=3, bins=41)


def stirred(head: torch.nn.Module) -> torch.nn.Module:
    """Heads begin at zero, where much does not show."""
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return head


def states(n: int = 5) -> torch.Tensor:
    return torch.randn(n, SIZE, generator=torch.Generator().manual_seed(0))


def test_symlog_and_symexp_undo_each_other() -> None:
    x = torch.tensor([-300.0, -1, -0.01, 0, 0.5, 7, 1e4])
    assert torch.allclose(symlog(x), torch.tensor([math.copysign(math.log1p(abs(v)), v) for v in x.tolist()]))
    assert torch.allclose(symexp(symlog(x)), x, rtol=1e-4)


def test_two_hot_shares_a_number_between_its_neighbours_alone() -> None:
    two_hot = TwoHot(bins=11, limit=3.0)
    bins = two_hot.bins.tolist()
    assert bins == pytest.approx([math.copysign(math.expm1(abs(s)), s) for s in np.linspace(-3, 3, 11)], abs=1e-5)
    for number in (-2.7, -0.3, 0.0, 0.01, 1.0, 5.5, bins[3], bins[-1]):
        weights = two_hot.encode(torch.tensor([number]))[0]
        assert float(weights.sum()) == pytest.approx(1) and float(weights.min()) >= 0
        assert float((weights * two_hot.bins).sum()) == pytest.approx(number, abs=1e-5)
        for at in weights.nonzero().flatten().tolist():
            between = [b for b in bins if min(number, bins[at]) + 1e-6 < b < max(number, bins[at]) - 1e-6]
            assert not between, (number, at)
    outside = two_hot.encode(torch.tensor([-1e6, 1e6]))
    assert float(outside[0, 0]) == 1 and float(outside[1, -1]) == 1


def test_the_mean_of_what_two_hot_learns_is_the_mean_of_its_targets() -> None:
    two_hot, logits = TwoHot(41, 5.0), torch.zeros(41, requires_grad=True)
    targets = torch.tensor([0.0, 0.0, 0.0, 20.0])
    optimizer = torch.optim.Adam([logits], 0.1)
    for _ in range(600):
        optimizer.zero_grad()
        two_hot.loss(logits.expand(4, -1), targets).mean().backward()
        optimizer.step()
    # An expectation over symlog would say exp(ln(21) / 4) - 1 = 1.14.
    assert float(two_hot.mean(logits.detach())) == pytest.approx(5.0, rel=0.02)


def test_cross_entropy_is_the_one_written_out_and_targets_get_no_gradient() -> None:
    two_hot = TwoHot(11, 3.0)
    logits, target = torch.randn(4, 11, requires_grad=True), torch.randn(4, requires_grad=True)
    loss = two_hot.loss(logits, target)
    p = np.exp(logits.detach().numpy())
    p /= p.sum(1, keepdims=True)
    by_hand = -(two_hot.encode(target.detach()).numpy() * np.log(p)).sum(1)
    assert np.allclose(loss.detach().numpy(), by_hand, atol=1e-5)
    loss.sum().backward()
    assert target.grad is None and logits.grad is not None and bool(logits.grad.any())


def test_values_begin_at_zero_and_are_the_mean_of_their_members() -> None:
    head = ValueHead(SIZE, SMALL)
    assert float(head.value(states()).detach().abs().max()) < 1e-5
    stirred(head)
    members = head.members(states().view(5, 1, SIZE))
    assert members.shape == (5, 1, 3) and float(members.std(-1).min()) > 0
    assert torch.allclose(head.value(states()), members.mean(-1)[:, 0])


@pytest.mark.parametrize("spec", [KEYS, AXES], ids=["keys", "axes"])
def test_q_values_depend_on_the_action_and_of_keys_come_all_at_once(spec) -> None:
    head = stirred(QHead(SIZE, spec, SMALL))
    assert isinstance(head, QHead)
    if spec.kind == "discrete":
        table = head.of_keys(states())
        assert table.shape == (5, spec.n)
        for key in range(spec.n):
            assert torch.allclose(head.value(states(), torch.full((5,), key)), table[:, key], atol=1e-5)
        target = torch.full((5,), 2.0)
        head.loss(states(), torch.full((5,), 3), target).sum().backward()
        slope = head.nets[0][-1].bias.grad.view(spec.n, SMALL.bins)
        assert bool(slope[3].any()) and not bool(slope[[0, 1, 2, 4, 5, 6]].any()), "only key 3 learns"
    else:
        actions = torch.rand(5, 3).requires_grad_()
        head.value(states(), actions).sum().backward()
        assert actions.grad is not None and bool((actions.grad != 0).all())
        with pytest.raises(ConfigError, match="keys"):
            head.of_keys(states())


def test_every_token_goes_through_the_same_layers_and_the_rest_as_it_is() -> None:
    layers, vectors = stirred(TokenLayers(SIZE, (2, 2))), states()
    first, _, second, _ = layers.net  # type: ignore[union-attr]

    def by_hand(token: np.ndarray) -> np.ndarray:
        for layer in (first, second):
            token = layer.weight.detach().numpy() @ token + layer.bias.detach().numpy()
            token = token / (1 + np.exp(-token))
        return token

    for vector, told in zip(vectors.numpy(), layers(vectors).detach().numpy(), strict=True):
        assert told.shape == (2 * TOKEN_FEATURES + 2,) == (layers.size,)
        expected = np.concatenate([by_hand(vector[:2]), by_hand(vector[2:4]), vector[4:]])
        np.testing.assert_allclose(told, expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(layers(vectors.view(5, 1, SIZE)), layers(vectors).unsqueeze(1))


def test_heads_see_token_by_token_where_they_are_to() -> None:
    sizes = {True: SIZE + 2 * (TOKEN_FEATURES - 2), False: SIZE}
    for by_token, size in sizes.items():
        tokens = (2, 2) if by_token else None
        parts = [make_policy(SIZE, spec, SMALL, tokens) for spec in (KEYS, AXES)]
        nets = [p.net for p in parts] + [*ValueHead(SIZE, SMALL, tokens).nets, *QHead(SIZE, KEYS, SMALL, tokens).nets]
        for net in nets:
            assert isinstance(net[0], TokenLayers) == by_token and net[1 if by_token else 0].in_features == size
    told = stirred(mlp(SIZE, 3, SMALL, (2, 2)))(states())
    assert told.shape == (5, 3)


def test_a_target_follows_by_a_share_of_the_way_and_learns_nothing_itself() -> None:
    head = stirred(ValueHead(SIZE, SMALL))
    target = target_of(head)
    before = [p.clone() for p in target.parameters()]
    stirred(head)
    head.value(states()).sum().backward()
    target.value(states().requires_grad_()).sum().backward()
    assert all(p.grad is None and not p.requires_grad for p in target.parameters())
    for times in (1, 2, 3):
        follow(target, head, 0.25)
        left = 0.75**times
        for old, now, goal in zip(before, target.parameters(), head.parameters(), strict=True):
            assert torch.allclose(now, left * old + (1 - left) * goal, atol=1e-6)


def drawn(policy: PolicyHead, n: int = 40_000) -> tuple[torch.Tensor, torch.Tensor]:
    """Many actions in one state."""
    uniform = torch.rand(n, 3, generator=torch.Generator().manual_seed(1))
    vectors = states(1).expand(n, -1)
    with torch.no_grad():
        return vectors, policy.act(vectors, uniform)


def test_keys_are_pressed_as_often_as_they_are_likely_and_never_lost() -> None:
    policy = stirred(KeysPolicy(SIZE, KEYS, SMALL))
    assert isinstance(policy, KeysPolicy)
    with torch.no_grad():
        policy.net[-1].bias[2] = -200.0
        vectors, keys = drawn(policy)
        likely = policy.probabilities(states(1))[0]
    assert float(likely[2]) == pytest.approx(UNIFORM / KEYS.n, rel=1e-3) and float(likely.sum()) == pytest.approx(1)
    often = np.bincount(keys.numpy(), minlength=KEYS.n) / len(keys)
    assert np.allclose(often, likely.numpy(), atol=0.01)
    assert int(policy.best(states(1))) == int(likely.argmax())
    with torch.no_grad():
        assert torch.allclose(policy.log_prob(vectors, keys), likely.log()[keys])
        assert float(policy.entropy(states(1))) == pytest.approx(float(-(likely * likely.log()).sum()), abs=1e-5)
    fresh = KeysPolicy(SIZE, KEYS, SMALL)
    assert torch.allclose(fresh.probabilities(states()), torch.full((5, KEYS.n), 1 / KEYS.n))


def test_vectors_stay_in_bounds_and_have_the_density_of_a_squashed_normal() -> None:
    policy = stirred(BoxPolicy(SIZE, AXES, SMALL))
    assert isinstance(policy, BoxPolicy)
    vectors, actions = drawn(policy)
    assert float(actions.abs().max()) <= 1
    with torch.no_grad():
        mean, spread = policy.normal(states(1))
        density = torch.distributions.TransformedDistribution(
            torch.distributions.Normal(mean[0].double(), spread[0].double()), torch.distributions.TanhTransform()
        )
        inside = actions[(actions.abs() < 0.999).all(1)]
        ours = policy.log_prob(vectors[: len(inside)], inside)
        assert torch.allclose(ours.double(), density.log_prob(inside.double()).sum(-1), atol=1e-2)
        # What is drawn has this density: the mean of -log is the entropy, which no formula gives.
        surprise = -policy.log_prob(vectors, actions).mean()
        assert float(policy.entropy(states(1))) == pytest.approx(float(surprise), abs=0.03)
        assert torch.allclose(policy.best(states(1)), mean.tanh())
        assert math.isfinite(float(policy.log_prob(states(1), torch.tensor([[1.0, -1.0, 0.0]]))))


def test_a_drawn_vector_follows_its_mean_so_that_gradients_reach_the_policy() -> None:
    policy = make_policy(SIZE, AXES, SMALL)
    policy.act(states(), torch.rand(5, 3)).sum().backward()
    gradient = policy.net[-1].bias.grad  # type: ignore[union-attr, index]
    assert bool((gradient != 0).all())


def test_a_policy_that_does_not_fit_the_actions_is_refused() -> None:
    with pytest.raises(ConfigError, match="BoxPolicy"):
        KeysPolicy(SIZE, AXES, SMALL)
    with pytest.raises(ConfigError, match="KeysPolicy"):
        BoxPolicy(SIZE, KEYS, SMALL)
