"""The folded reward window against one update a step over the whole tensor."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rsas.sparse.measure import RewardWindow


def window(**options):
    defaults = {
        "rate": 0.3,
        "update": "ema",
        "reward": "loss_decrease",
        "count_first_loss": False,
        "device": torch.device("cpu"),
    }
    return RewardWindow(**(defaults | options))


def step_by_step(measure, mask, losses, previous, *, rate, update, reward):
    """The definition: after every step, V of the weights that are on follows the reward."""
    for loss in losses:
        if previous is not None:
            r = loss - previous if reward == "loss_increase" else previous - loss
            change = r - measure if update == "ema" else r
            measure = torch.where(mask, measure + rate * change, measure)
        previous = loss
    return measure, previous


@given(
    rate=st.floats(1e-3, 1.0),
    update=st.sampled_from(["ema", "accumulate"]),
    reward=st.sampled_from(["loss_decrease", "loss_increase"]),
    first=st.booleans(),
    losses=st.lists(
        st.lists(st.floats(0, 5, width=32), min_size=1, max_size=12), min_size=1, max_size=4
    ),
)
def test_window_equals_updates_step_by_step(rate, update, reward, first, losses):
    generator = torch.Generator().manual_seed(0)
    folded = window(rate=rate, update=update, reward=reward, count_first_loss=first)
    measure = torch.zeros(30, dtype=torch.float64)
    expected, previous = measure.clone(), 0.0 if first else None
    for steps in losses:
        mask = torch.rand(30, generator=generator) < 0.5
        for loss in steps:
            folded.observe(torch.tensor(loss))
        folded.apply(measure, mask)
        folded.reset()
        expected, previous = step_by_step(
            expected, mask, steps, previous, rate=rate, update=update, reward=reward
        )
        assert torch.allclose(measure, expected, rtol=1e-9, atol=1e-12)


def test_ema_of_a_constant_reward_approaches_it_at_the_rate():
    folded = window(rate=0.2)
    for step in range(11):  # the loss falls by 0.5 a step: 10 rewards of 0.5
        folded.observe(torch.tensor(10 - 0.5 * step))
    measure = torch.zeros(3)
    folded.apply(measure, torch.tensor([True, False, True]))
    expected = 0.5 * (1 - 0.8**10)
    assert measure.tolist() == pytest.approx([expected, 0.0, expected])


def test_accumulated_rewards_telescope():
    folded = window(update="accumulate", reward="loss_increase", count_first_loss=True, rate=0.01)
    for loss in (2.3, 2.9, 1.1, 1.7):
        folded.observe(torch.tensor(loss, dtype=torch.float64))
    measure = torch.zeros(1, dtype=torch.float64)
    folded.apply(measure, torch.tensor([True]))
    assert measure.item() == pytest.approx(0.01 * 1.7)  # last loss minus 0


def test_state_goes_on_in_the_middle_of_a_window():
    whole, first = window(), window()
    for loss in (2.0, 1.5):
        whole.observe(torch.tensor(loss))
        first.observe(torch.tensor(loss))
    second = window()
    second.load_state_dict(first.state_dict())
    results = []
    for each in (whole, second):
        each.observe(torch.tensor(0.5))
        measure = torch.full((2,), 0.7)
        each.apply(measure, torch.tensor([True, False]))
        results.append(measure)
    assert torch.equal(*results)
    assert results[0][0] != 0.7
