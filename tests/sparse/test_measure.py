"""Measure values against the definition, one update a step over the whole tensor."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from rsas.sparse.layers import Layer, Prunable
from rsas.sparse.measure import GlobalCredit, PerWeightCredit
from rsas.sparse.modules import Place

rates = st.floats(1e-3, 1.0)
updates = st.sampled_from(["ema", "accumulate"])


def global_credit(**options):
    defaults = {
        "rate": 0.3,
        "update": "ema",
        "sign": 1.0,
        "paired": False,
        "baseline": False,
        "device": torch.device("cpu"),
    }
    return GlobalCredit(**(defaults | options))


def plain_layer(size, dtype=torch.float64):
    zeros = torch.zeros(size, dtype=dtype)
    on = torch.ones(size, dtype=torch.bool)
    found = Prunable(nn.Parameter(zeros), [Place("plain", nn.Identity(), "weight")])
    return Layer(found, on, size, None, zeros.clone())


def step_by_step(measure, mask, rewards, *, rate, update):
    """The definition: after every step, V of the weights that are on follows the reward."""
    for r in rewards:
        change = r - measure if update == "ema" else r
        measure = torch.where(mask, measure + rate * change, measure)
    return measure


@given(
    rate=rates,
    update=updates,
    sign=st.sampled_from([1.0, -1.0]),
    first=st.booleans(),
    baseline=st.booleans(),
    losses=st.lists(
        st.lists(st.floats(0, 5, width=32), min_size=1, max_size=12), min_size=1, max_size=4
    ),
)
def test_folded_rewards_equal_updates_step_by_step(rate, update, sign, first, baseline, losses):
    generator = torch.Generator().manual_seed(0)
    credit = global_credit(rate=rate, update=update, sign=sign, baseline=baseline)
    if first:  # as in the published code, which starts with a previous loss of 0
        credit.before_step([], torch.tensor(0.0))
    layer = plain_layer(30)
    expected, previous, earlier = layer.measure.clone(), 0.0 if first else None, []
    for steps in losses:
        layer.use(torch.rand(30, generator=generator) < 0.5)
        rewards = []
        for loss in steps:
            credit.before_step([layer], torch.tensor(loss))
            if previous is not None:
                reward = sign * (previous - loss)
                mean = sum(earlier) / len(earlier) if earlier else reward
                earlier.append(reward)
                rewards.append(reward - mean if baseline else reward)
            previous = loss
        credit.settle([layer])
        expected = step_by_step(expected, layer.mask, rewards, rate=rate, update=update)
        assert torch.allclose(layer.measure, expected, rtol=1e-9, atol=1e-12)


@given(rate=rates, steps=st.integers(1, 60))
def test_ema_of_a_constant_reward_approaches_it_at_the_rate(rate, steps):
    credit = global_credit(rate=rate)
    for step in range(steps + 1):  # the loss falls by 0.5 a step: so many rewards of 0.5
        credit.before_step([], torch.tensor(100 - 0.5 * step))
    layer = plain_layer(3)
    layer.use(torch.tensor([True, False, True]))
    credit.settle([layer])
    expected = 0.5 * (1 - (1 - rate) ** steps)
    assert layer.measure.tolist() == pytest.approx([expected, 0.0, expected], rel=1e-9)


def test_accumulated_rewards_telescope():
    credit = global_credit(update="accumulate", sign=-1.0, rate=0.01)
    for loss in (0.0, 2.3, 2.9, 1.1, 1.7):
        credit.before_step([], torch.tensor(loss, dtype=torch.float64))
    layer = plain_layer(1)
    credit.settle([layer])
    assert layer.measure.item() == pytest.approx(0.01 * 1.7)  # last loss minus 0


def test_paired_rewards_are_changes_on_the_same_batch():
    credit = global_credit(update="accumulate", paired=True, rate=0.5)
    for before, after in ((2.0, 1.75), (9.0, 8.5), (4.0, 5.0)):
        credit.before_step([], torch.tensor(before))
        credit.after_step([], lambda after=after: torch.tensor(after))
    layer = plain_layer(1)
    credit.settle([layer])
    assert layer.measure.item() == pytest.approx(0.5 * (0.25 + 0.5 - 1.0))


@pytest.mark.parametrize("baseline", [False, True])
def test_state_goes_on_in_the_middle_of_a_window(baseline):
    whole, first = global_credit(baseline=baseline), global_credit(baseline=baseline)
    for loss in (2.0, 1.5, 1.4):
        whole.before_step([], torch.tensor(loss))
        first.before_step([], torch.tensor(loss))
    second = global_credit(baseline=baseline)
    second.load_state_dict(first.state_dict())
    results = []
    for each in (whole, second):
        each.before_step([], torch.tensor(0.5))
        layer = plain_layer(2)
        layer.measure.fill_(0.7)
        layer.use(torch.tensor([True, False]))
        each.settle([layer])
        results.append(layer.measure)
    assert torch.equal(*results)
    assert results[0][0] != 0.7


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rate=rates,
    update=updates,
    sign=st.sampled_from([1.0, -1.0]),
    attribution=st.sampled_from(["loss_change", "saliency"]),
    baseline=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_per_weight_credit_is_its_definition(
    rate, update, sign, attribution, baseline, seed, layer
):
    """Three steps of a layer against the update written out with the change dw itself."""
    generator = torch.Generator().manual_seed(seed)

    def normal():
        return torch.randn(40, generator=generator, dtype=torch.float64)

    mask = torch.rand(40, generator=generator) < 0.5
    mask[0] = True
    pruned = layer(normal(), mask, measure=normal(), gradient=normal(), dtype=torch.float64)
    credit = PerWeightCredit(
        rate=rate, update=update, sign=sign, attribution=attribution, steps=1, baseline=baseline
    )
    expected = pruned.measure.clone()
    for _ in range(3):
        gradient = pruned.weight.grad = normal()
        before = pruned.weight.detach().clone()
        after = (before + 0.1 * normal()) * mask
        with torch.no_grad():
            credit.before_step([pruned], torch.tensor(0.0))
            pruned.weight.copy_(after)
            credit.after_step([pruned], None)
        if attribution == "loss_change":
            reward = -gradient * (after - before)
        else:
            reward = (before * gradient).abs()
        reward = sign * (reward - reward[mask].mean() if baseline else reward)
        expected = step_by_step(expected, mask, [reward], rate=rate, update=update)
    assert torch.allclose(pruned.measure, expected, rtol=1e-9, atol=1e-12)


def test_loss_change_credit_sums_to_the_loss_change_to_first_order(layer):
    """On the quadratic 1/2 w'Aw the remainder is of second order in the step."""
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(20, 20, generator=generator, dtype=torch.float64)
    a = root @ root.T
    start = torch.randn(20, generator=generator, dtype=torch.float64)
    mask = torch.arange(20) % 3 > 0

    def remainder(lr):
        pruned = layer(start, mask, dtype=torch.float64)
        credit = PerWeightCredit(
            rate=1.0,
            update="accumulate",
            sign=1.0,
            attribution="loss_change",
            steps=1,
            baseline=False,
        )
        with torch.no_grad():
            w = pruned.weight
            first = 0.5 * w @ a @ w
            for _ in range(5):
                w.grad = a @ w
                credit.before_step([pruned], torch.tensor(0.0))
                w.sub_(w.grad, alpha=lr).mul_(mask)
                credit.after_step([pruned], None)
            fall = first - 0.5 * w @ a @ w
        assert not pruned.measure[~mask].any()
        return abs(pruned.measure.sum().item() - fall.item()), fall.item()

    coarse, fine = remainder(1e-3), remainder(1e-4)
    assert fine[0] < 0.01 * fine[1]
    assert coarse[0] / fine[0] == pytest.approx(100, rel=0.2)  # ten times the step
