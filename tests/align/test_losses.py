"""Losses of alignment on tensors small enough to work out by hand, and against their definitions."""

import math

import pytest
import torch

from openglm.align.losses import (
    adapt_kl_coefficient,
    advantages_and_returns,
    distillation_loss,
    group_advantages,
    kl_estimate,
    place_rewards,
    policy_loss,
    preference_loss,
    reward_pair_loss,
    sampler_weight,
    value_loss,
    whiten,
)

ONES = torch.ones(1, 3, dtype=torch.bool)


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def lengths_mask(lengths, size):
    return torch.arange(size) < torch.tensor(lengths)[:, None]


@pytest.mark.parametrize("kind", ["k1", "k2", "k3"])
def test_kl_is_nothing_where_policy_and_reference_agree(kind):
    logp = drawn(4, 7)
    assert kl_estimate(logp, logp.clone(), kind).abs().max() == 0


def test_k1_and_k3_estimate_the_exact_kl_and_k2_has_its_gradient():
    """Expectation over all tokens, with the policy's own probabilities, in place of drawing."""
    policy = drawn(11).requires_grad_()
    reference = drawn(11, seed=1).log_softmax(-1)
    logp = policy.log_softmax(-1)
    exact = (logp.exp() * (logp - reference)).sum()
    weights = logp.exp().detach()
    for kind in ("k1", "k3"):
        assert torch.allclose((weights * kl_estimate(logp, reference, kind)).sum(), exact)
    (wanted,) = torch.autograd.grad(exact, policy, retain_graph=True)
    (gradient,) = torch.autograd.grad((weights * kl_estimate(logp, reference, "k2")).sum(), policy, retain_graph=True)
    assert torch.allclose(gradient, wanted)
    (k1,) = torch.autograd.grad((weights * kl_estimate(logp, reference, "k1")).sum(), policy)
    assert k1.abs().max() < 1e-12, "as a loss, k1 pulls nowhere"


def test_the_kl_coefficient_follows_its_target_slowly():
    assert adapt_kl_coefficient(0.2, kl=6.0, target=6.0, answers=100, horizon=1000) == 0.2
    assert adapt_kl_coefficient(0.2, kl=600.0, target=6.0, answers=100, horizon=1000) == pytest.approx(0.2 * 1.02)
    assert adapt_kl_coefficient(0.2, kl=0.0, target=6.0, answers=100, horizon=1000) == pytest.approx(0.2 * 0.98)


@pytest.mark.parametrize("length", [1, 2, 3])
def test_the_score_lands_on_the_last_token_of_an_answer(length):
    mask = lengths_mask([length], 3)
    rewards = place_rewards(torch.tensor([5.0]), torch.full((1, 3), 2.0), mask, coefficient=0.25)
    wanted = [-0.5] * length + [0.0] * (3 - length)
    wanted[length - 1] += 5.0
    assert rewards.tolist() == [wanted]


def test_the_score_lands_on_the_last_drawn_token_behind_a_tools_words():
    mask = torch.tensor([[True, False, False, True, False]])
    assert place_rewards(torch.tensor([1.0]), torch.zeros(1, 5), mask, 0.1).tolist() == [[0, 0, 0, 1, 0]]


def test_advantages_equal_their_definition():
    """Equation 16 as a double sum over the drawn tokens, whatever lies between them."""
    rewards, values = drawn(5, 9), drawn(5, 9, seed=1)
    mask = torch.rand(5, 9, generator=torch.Generator().manual_seed(2)) < 0.7
    discount, smoothing = 0.9, 0.8
    found, returns = advantages_and_returns(rewards, values, mask, discount, smoothing)
    for row in range(5):
        at = mask[row].nonzero().flatten().tolist()
        errors = [
            rewards[row, t] + discount * (values[row, after] if after is not None else 0.0) - values[row, t]
            for t, after in zip(at, [*at[1:], None], strict=True)
        ]
        for i, t in enumerate(at):
            wanted = sum((discount * smoothing) ** (j - i) * errors[j] for j in range(i, len(at)))
            assert float(found[row, t]) == pytest.approx(float(wanted))
            assert float(returns[row, t]) == pytest.approx(float(wanted + values[row, t]))
    assert found[~mask].abs().max() == 0 == returns[~mask].abs().max()


def test_without_discount_returns_are_the_rewards_still_to_come():
    rewards = torch.tensor([[1.0, 2.0, 4.0]])
    _, returns = advantages_and_returns(rewards, drawn(1, 3).float(), ONES, discount=1.0, smoothing=1.0)
    assert torch.allclose(returns, torch.tensor([[7.0, 6.0, 4.0]]))


def test_padding_changes_no_advantage():
    rewards, values = drawn(1, 4), drawn(1, 4, seed=1)
    alone, _ = advantages_and_returns(rewards, values, torch.ones(1, 4, dtype=torch.bool))
    wide = [torch.cat([x, torch.full((1, 3), 9.0, dtype=x.dtype)], 1) for x in (rewards, values)]
    padded, _ = advantages_and_returns(*wide, lengths_mask([4], 7))
    assert torch.equal(padded[:, :4], alone)


def test_whitened_values_have_no_mean_and_variance_one_over_the_mask_alone():
    values, mask = drawn(4, 8) * 3 + 5, lengths_mask([8, 3, 1, 5], 8)
    white = whiten(values, mask)
    assert abs(float(white[mask].mean())) < 1e-9
    assert float(white[mask].var(correction=0)) == pytest.approx(1)
    assert white[~mask].abs().max() == 0
    kept = whiten(values, mask, shift=False)
    assert float(kept[mask].mean()) == pytest.approx(float(values[mask].mean()))


def test_groups_are_compared_with_themselves_alone():
    rewards, groups = torch.tensor([1.0, 10.0, 3.0, 30.0]), torch.tensor([0, 1, 0, 1])
    deviation = math.sqrt(2)
    wanted = torch.tensor([-1 / deviation, -10 / (10 * deviation), 1 / deviation, 10 / (10 * deviation)])
    assert torch.allclose(group_advantages(rewards, groups), wanted, atol=1e-5)
    plain = group_advantages(rewards, groups, by_deviation=False)
    assert torch.equal(plain, torch.tensor([-1.0, -10.0, 1.0, 10.0]))


@pytest.mark.parametrize("reward", [0.0, 0.1, 1 / 3, 1e6 / 7])
def test_a_group_of_equals_teaches_exactly_nothing(reward):
    rewards, groups = torch.tensor([reward] * 7 + [2.0]), torch.tensor([0] * 7 + [1])
    assert group_advantages(rewards, groups).tolist() == [0.0] * 8


def test_before_the_first_update_the_ratio_is_one_and_the_gradient_that_of_the_policy_gradient():
    logp = drawn(3, 4).requires_grad_()
    advantages = drawn(3, 4, seed=1)
    loss, clipped = policy_loss(logp, logp.detach(), advantages)
    assert torch.equal(loss, -advantages) and not clipped.any()
    (gradient,) = torch.autograd.grad(loss.sum(), logp)
    assert torch.allclose(gradient, -advantages)


def test_a_clipped_token_has_no_gradient_and_the_other_direction_keeps_it():
    logp = torch.tensor([math.log(1.5), math.log(0.5), math.log(1.5), math.log(0.5)]).requires_grad_()
    advantages = torch.tensor([1.0, -1.0, -1.0, 1.0])
    loss, clipped = policy_loss(logp, torch.zeros(4), advantages)
    assert torch.allclose(loss, torch.tensor([-1.2, 0.8, 1.5, -0.5]))
    assert clipped.tolist() == [True, True, False, False]
    (gradient,) = torch.autograd.grad(loss.sum(), logp)
    assert torch.allclose(gradient, torch.tensor([0.0, 0.0, 1.5, -0.5]))


def test_a_wider_upper_bound_lets_good_tokens_grow():
    logp, old = torch.tensor([math.log(1.25)]), torch.zeros(1)
    assert policy_loss(logp, old, torch.ones(1))[1].item()
    assert not policy_loss(logp, old, torch.ones(1), clip_high=0.28)[1].item()


def test_one_absurd_token_keeps_the_loss_finite_and_dual_clip_bounds_it():
    logp = torch.tensor([50.0, -1e4]).requires_grad_()
    loss, _ = policy_loss(logp, torch.zeros(2), torch.tensor([-1.0, -1.0]))
    assert torch.isfinite(loss).all()
    bounded, clipped = policy_loss(logp, torch.zeros(2), torch.tensor([-1.0, -1.0]), dual_clip=3.0)
    assert bounded[0].item() == 3.0 and clipped[0].item()
    (gradient,) = torch.autograd.grad(bounded.sum(), logp)
    assert gradient.abs().max() == 0
    assert torch.isfinite(kl_estimate(logp, torch.zeros(2), "k3")).all()


def test_a_value_gains_nothing_by_leaving_its_range():
    values = torch.tensor([0.5]).requires_grad_()
    loss = value_loss(values, torch.zeros(1), torch.ones(1), clip=0.2)
    assert loss.item() == pytest.approx((1 - 0.2) ** 2 / 2)  # counted as if the value were still 0.2
    (gradient,) = torch.autograd.grad(loss.sum(), values)
    assert gradient.item() == 0
    assert value_loss(values, torch.zeros(1), -torch.ones(1), clip=0.2).item() == pytest.approx(1.5**2 / 2)


def test_what_another_sampler_drew_is_weighted_by_its_own_chances():
    sampler = torch.tensor([0.2, 0.5, 0.01]).log()
    trainer = torch.tensor([0.1, 0.5, 0.9]).log().requires_grad_()
    weight = sampler_weight(trainer, sampler)
    assert torch.allclose(weight, torch.tensor([0.5, 1.0, 2.0])) and not weight.requires_grad


def test_a_pair_of_equal_rewards_costs_one_bit_and_a_margin_more():
    zero, one = torch.zeros(1), torch.ones(1)
    assert reward_pair_loss(zero, zero).item() == pytest.approx(math.log(2))
    assert reward_pair_loss(one, zero).item() == pytest.approx(math.log(1 + math.exp(-1)))
    assert reward_pair_loss(one, zero, margin=1.0).item() == pytest.approx(math.log(2))


def test_a_tie_is_best_where_rewards_are_equal():
    difference = torch.linspace(-3, 3, 13, dtype=torch.float64)
    tie = torch.ones(13, dtype=torch.bool)
    loss = reward_pair_loss(difference, torch.zeros(13, dtype=torch.float64), tie=tie)
    assert int(loss.argmin()) == 6 and torch.allclose(loss, loss.flip(0))
    ordered = reward_pair_loss(difference, torch.zeros(13, dtype=torch.float64), tie=~tie)
    assert torch.equal(ordered, reward_pair_loss(difference, torch.zeros(13, dtype=torch.float64)))


def test_dpo_starts_at_ln_2_and_pulls_by_beta_over_two():
    chosen, rejected = torch.zeros(3).requires_grad_(), torch.zeros(3).requires_grad_()
    loss, margin = preference_loss(chosen, rejected, beta=0.1)
    assert loss.tolist() == pytest.approx([math.log(2)] * 3) and margin.abs().max() == 0
    up, down = torch.autograd.grad(loss.sum(), (chosen, rejected))
    assert torch.allclose(up, torch.full((3,), -0.05)) and torch.allclose(down, torch.full((3,), 0.05))


def test_dpo_by_hand():
    loss, margin = preference_loss(torch.tensor([-2.0]), torch.tensor([-5.0]), beta=0.5)
    assert margin.item() == pytest.approx(1.5)
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-1.5)))


def test_ipo_is_content_at_its_margin():
    at = torch.tensor([1 / (2 * 0.1)]).requires_grad_()
    loss, _ = preference_loss(at, torch.zeros(1), kind="ipo", beta=0.1)
    (gradient,) = torch.autograd.grad(loss.sum(), at)
    assert loss.item() == 0 == gradient.item()
    assert preference_loss(at + 1, torch.zeros(1), kind="ipo", beta=0.1)[0].item() == pytest.approx(1.0)


def test_simpo_wants_a_margin_of_gamma():
    loss, _ = preference_loss(torch.tensor([-1.0]), torch.tensor([-1.5]), kind="simpo", beta=2.0, gamma=1.0)
    assert loss.item() == pytest.approx(math.log(2))


def test_distillation_is_the_kl_in_the_direction_asked():
    student, teacher = drawn(2, 6), drawn(2, 6, seed=1)
    p, q = teacher.softmax(-1), student.softmax(-1)
    assert torch.allclose(distillation_loss(student, teacher), (p * (p / q).log()).sum(-1))
    assert torch.allclose(distillation_loss(student, teacher, reverse=True), (q * (q / p).log()).sum(-1))
    assert distillation_loss(teacher, teacher + 3).abs().max() < 1e-12, "logits are known up to a constant"
