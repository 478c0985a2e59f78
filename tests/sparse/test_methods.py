"""When masks are redrawn and what they become."""

import dataclasses
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rsas import ReinforcedPruning, TrainConfig
from rsas.sparse import Position, StaticPruning


def plan(method, epochs, steps):
    """Step of the training -> exploited share, for all steps at which masks are redrawn."""
    shares = {}
    for epoch in range(epochs):
        for step in range(steps):
            share = method.exploited(Position(epoch, step, epochs, steps))
            if share is not None:
                shares[epoch * steps + step] = share
    return shares


@pytest.mark.parametrize(("epochs", "steps"), [(8, 30), (3, 7), (1, 25)])
def test_reference_redraws_as_published(epochs, steps):
    expected = {}
    for epoch in range(epochs):
        for i in range(steps):
            if i % 10 == 0 and epoch < epochs - 1:
                expected[epoch * steps + i] = epoch / epochs
            elif epoch == epochs - 1 and i == 0:
                expected[epoch * steps + i] = 1.0
    assert plan(ReinforcedPruning.reference(), epochs, steps) == expected


def test_default_explores_less_and_less_and_stops_half_way():
    method = ReinforcedPruning(update_interval=10)
    shares = plan(method, epochs=4, steps=50)  # 200 steps, stop after 100
    assert list(shares) == [*range(9, 100, 10)]
    assert shares[99] == 1.0
    done = 70
    explored = 0.3 * (1 + math.cos(math.pi * done / 100)) / 2
    assert shares[done - 1] == pytest.approx(1 - explored)
    assert list(shares.values()) == sorted(shares.values())


def test_a_training_shorter_than_the_interval_ends_with_the_best():
    assert plan(ReinforcedPruning(update_interval=100), epochs=2, steps=10) == {9: 1.0}


def test_the_last_epoch_before_the_stop_is_not_off_by_rounding():
    method = dataclasses.replace(ReinforcedPruning.reference(), exploration_stop=0.07)
    assert 0.07 * 100 > 7
    assert max(plan(method, 100, 1)) == 6  # counted from 0: the seventh epoch


def test_static_never_redraws():
    assert plan(StaticPruning(), 3, 20) == {}


@given(
    size=st.integers(1, 300),
    sparsity=st.floats(0, 1),
    exploited=st.floats(0, 1),
    seed=st.integers(0, 2**32),
)
def test_exact_budget_has_exactly_k_ones_and_the_best_among_them(size, sparsity, exploited, seed):
    method = ReinforcedPruning()
    generator = torch.Generator().manual_seed(seed)
    measure = torch.randn(size, generator=generator)
    keep = method.kept(size, sparsity)
    assert 0 <= keep <= size
    assert abs(keep - size * (1 - sparsity)) <= 0.5
    mask = method.next_mask(measure, keep, exploited, generator=generator)
    assert mask.sum() == keep
    best = math.floor(keep * exploited)
    assert mask[measure.argsort(descending=True)[:best]].all()


def test_overshoot_has_the_published_density():
    # algorithm.md, fault 2: about (1-s)(1 + s*p) when the share p is exploited.
    method = ReinforcedPruning.reference()
    generator = torch.Generator().manual_seed(0)
    measure = torch.randn(100_000, generator=generator)
    keep = method.kept(100_000, 0.9)
    mask = method.next_mask(measure, keep, 0.5, generator=generator)
    assert mask.float().mean().item() == pytest.approx(0.1 * (1 + 0.9 * 0.5), abs=1e-3)
    assert method.next_mask(measure, keep, 1.0, generator=generator).sum() == keep


def test_explored_weights_are_drawn_uniformly_from_the_rest():
    method = ReinforcedPruning()
    generator = torch.Generator().manual_seed(1)
    measure = torch.arange(20.0)
    counts = sum(
        method.next_mask(measure, 10, 0.5, generator=generator).float() for _ in range(3000)
    )
    assert (counts[15:] == 3000).all()
    rest = counts[:15] / 3000
    # Five of fifteen; four standard deviations of a binomial share.
    assert rest.tolist() == pytest.approx([1 / 3] * 15, abs=4 * math.sqrt(2 / 9 / 3000))


def test_config_has_the_same_options_and_defaults():
    config = TrainConfig()
    for option in dataclasses.fields(ReinforcedPruning):
        assert getattr(config, option.name) == option.default
    TrainConfig(**ReinforcedPruning.reference().options())
