"""Budgets of layers."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from rsas import InputError
from rsas.sparse import Target
from rsas.sparse.distributions import erdos_renyi_kernel, kept, kept_published, share_out

shapes = st.lists(
    st.lists(st.integers(1, 30), min_size=2, max_size=4).map(tuple), min_size=1, max_size=6
)


def test_kept_is_the_nearest_and_the_published_count_rounds_down():
    assert [kept(100, s) for s in (0.0, 0.9, 0.994, 0.996, 1.0)] == [100, 10, 1, 0, 0]
    assert kept_published(100, 0.9) == 9  # 100 * (1 - 0.9) = 9.999999999999998


@given(shapes=shapes, sparsity=st.floats(0, 1))
def test_erk_counts_sum_to_the_budget_in_proportion(shapes, sparsity):
    sizes = {str(i): math.prod(shape) for i, shape in enumerate(shapes)}
    densities = {str(i): erdos_renyi_kernel(shape) for i, shape in enumerate(shapes)}
    budget = kept(sum(sizes.values()), sparsity)
    counts = share_out(sizes, densities, budget)
    assert sum(counts.values()) == budget
    assert all(0 <= counts[name] <= sizes[name] for name in sizes)
    # Layers below 1 share one scale; those that are full would have more at that scale.
    open_ = [name for name in sizes if counts[name] < sizes[name] - 1]
    for one in open_:
        for other in sizes:
            scale = (counts[one] + 1) / (sizes[one] * densities[one])
            assert counts[other] <= scale * sizes[other] * densities[other] + 1


def test_erk_of_a_known_network():
    """784-1000-10 at 0.9: relative densities 1784/784000 and 1010/10000; 79,400 weights stay."""
    model = nn.Sequential(nn.Linear(784, 1000), nn.Linear(1000, 10))
    counts = list(Target(sparsity=0.9, distribution="erk").kept(model).values())
    # The second layer's share would be 79400 * 1010 / 2794 = 28702 of 10000: it stays dense.
    assert counts == [69400, 10000]
    assert erdos_renyi_kernel((16, 8, 3, 3)) == (16 + 8 + 3 + 3) / (16 * 8 * 9)


def test_erk_divides_in_the_ratio_of_the_sums_of_dimensions():
    counts = share_out({"a": 10_000, "b": 40_000}, {"a": 200 / 10_000, "b": 400 / 40_000}, 900)
    assert counts == {"a": 300, "b": 600}


def test_tiny_and_huge_densities_do_not_overflow():
    for size in (1e-310, 1e308):
        assert share_out({"a": 100, "b": 300}, {"a": size, "b": size}, 40) == {"a": 10, "b": 30}


def network():
    return nn.ModuleDict(
        {
            "first": nn.Linear(20, 50),
            "body": nn.Sequential(nn.Conv2d(4, 10, 5, bias=False), nn.Conv1d(5, 10, 4)),
            "last": nn.Linear(50, 4),
        }
    )


def counts(**options):
    return Target(**options).kept(network())


def test_uniform_is_the_nearest_in_every_layer():
    assert counts(sparsity=0.9) == {"first": 100, "body.0": 100, "body.1": 20, "last": 20}


def test_map_scales_densities_to_the_budget_and_the_first_pattern_counts():
    densities = {"last": 4.0, "body.*": 1.0, "*": 2.0}
    found = counts(sparsity=0.9, distribution="map", layer_densities=densities)
    # 240 of 2400 in proportion to 1000*2, 1000*1, 200*1, 200*4.
    assert found == {"first": 120, "body.0": 60, "body.1": 12, "last": 48}
    kept_as_given = counts(
        sparsity=1 - (500 + 250 + 50 + 200) / 2400,
        distribution="map",
        layer_densities={"first": 0.5, "body.*": 0.25, "last": 1.0},
    )
    assert kept_as_given == {"first": 500, "body.0": 250, "body.1": 50, "last": 200}


def test_include_and_exclude():
    assert counts(sparsity=0.5, include=("body.*", "last"), exclude=("*.1",)) == {
        "body.0": 500,
        "last": 100,
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"include": ("fc*",)}, r"include: 'fc\*' fits no layer; they are first, body.0, body.1"),
        ({"exclude": ("fc",)}, "exclude: 'fc' fits no layer"),
        (
            {"distribution": "map", "layer_densities": {"first": 1.0}},
            "layer_densities: no pattern fits layer 'body.0'",
        ),
        (
            {"distribution": "map", "layer_densities": {"x": 1.0, "*": 1.0}},
            "layer_densities: 'x' fits no layer",
        ),
    ],
)
def test_patterns_that_do_not_fit(options, message):
    with pytest.raises(InputError, match=message):
        Target(sparsity=0.5, **options).kept(network())


def test_computed_weights_are_refused_unless_excluded():
    model = nn.Sequential(
        nn.Linear(4, 4), torch.nn.utils.parametrizations.weight_norm(nn.Linear(4, 2))
    )
    with pytest.raises(InputError, match="the weight of layer '1' is computed"):
        Target(sparsity=0.5).kept(model)
    assert list(Target(sparsity=0.5, exclude=("1",)).kept(model).values()) == [8]
