"""Selections of exactly k positions."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from torch.nn.utils import prune

from rsas.sparse import masks

shapes = st.lists(st.integers(1, 8), min_size=1, max_size=4)


@given(shape=shapes, seed=st.integers(0, 2**32), data=st.data())
def test_draw_takes_exactly_count_of_the_available(shape, seed, data):
    generator = torch.Generator().manual_seed(seed)
    available = torch.rand(shape, generator=generator) < 0.6
    count = data.draw(st.integers(0, int(available.sum())))
    mask = masks.draw(available, count, generator=generator)
    assert mask.sum() == count
    assert not (mask & ~available).any()


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize(
    "available",
    [[1, 1, 1, 1], [1, 1, 0, 1, 1], [0, 1, 0, 0, 1, 0, 0, 1, 0, 1]],
    ids=["all", "most", "few"],
)
@pytest.mark.parametrize("on_host", [True, False])
def test_draw_is_uniform_over_subsets(available, count, on_host, monkeypatch):
    monkeypatch.setattr(masks, "_on_host", lambda _: on_host)
    generator = torch.Generator().manual_seed(0)
    counts: dict[tuple[int, ...], int] = {}
    for _ in range(3000):
        mask = masks.draw(torch.tensor(available).bool(), count, generator=generator)
        subset = tuple(mask.nonzero().view(-1).tolist())
        counts[subset] = counts.get(subset, 0) + 1
    assert len(counts) == math.comb(4, count)
    assert all(available[position] for subset in counts for position in subset)
    assert chisquare(list(counts.values())).pvalue > 1e-3


@pytest.mark.parametrize("off", [0, 1, 700, 999, 1000])
def test_draw_equals_random_unstructured_of_torch(off):
    torch.manual_seed(3)
    expected = prune.RandomUnstructured(amount=off).prune(torch.ones(10, 100)).bool()
    after = torch.get_rng_state()
    torch.manual_seed(3)
    mask = masks.draw(torch.ones(10, 100, dtype=torch.bool), 1000 - off)
    assert torch.equal(mask, expected)
    assert torch.equal(torch.get_rng_state(), after)  # the draws after it agree, too


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32),
    size=st.sampled_from([1, 2, 5000, 30_011]),
    equal=st.sampled_from([0.0, 0.05, 0.5, 0.9, 1.0]),
    shared=st.sampled_from([-9.0, 0.0, 9.0]),
    levels=st.sampled_from([0, 6, 500]),
    share=st.one_of(st.floats(0, 1), st.sampled_from([0.05, 0.1, 0.5, 0.9, 0.95])),
)
def test_border_is_the_kth_largest(seed, size, equal, shared, levels, share):
    """Against sorting: distinct values, few levels, and one value that many share."""
    rng = np.random.default_rng(seed)
    values = rng.standard_normal(size).astype(np.float32)
    if levels:
        values = np.round(values * levels / 6).astype(np.float32)
    values[rng.random(size) < equal] = shared
    count = min(size, 1 + int(share * size))
    assert masks._border(values, count) == np.sort(values)[size - count]


def test_border_of_values_that_mislead_the_sample():
    """Every value that the sample sees is 0."""
    values = np.arange(4096 * 8, dtype=np.float32)
    values[::8] = 0
    assert masks._border(values, 100) == np.sort(values)[-100]


@given(
    values=st.lists(st.integers(0, 6), min_size=2, max_size=200),
    data=st.data(),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
)
def test_top_by_position_equals_topk_of_torch_ties_and_all(values, data, dtype):
    tensor = torch.tensor(values, dtype=dtype) / 7
    count = data.draw(st.integers(0, len(values)))
    expected = torch.zeros(len(values), dtype=torch.bool)
    expected[torch.topk(tensor, count, sorted=False).indices] = True
    assert torch.equal(masks.top_by_position(tensor, count), expected)


@pytest.mark.parametrize("select", [masks.top, masks.top_by_position])
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_not_a_number_does_not_change_the_count(select, count):
    values = torch.tensor([0.5, torch.nan, 1.0, torch.nan, 0.0])
    assert select(values, count).sum() == count


@given(values=st.lists(st.sampled_from([-1.5, 0.0, 0.25, 7.0]), min_size=1), data=st.data())
def test_top_takes_the_largest_and_exactly_count(values, data):
    count = data.draw(st.integers(0, len(values)))
    tensor = torch.tensor(values)
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    for mask in (
        masks.top(tensor, count, generator=generator),
        masks._top_on_device(tensor, count, generator),
        masks.top_by_position(tensor, count),
    ):
        assert mask.sum() == count
        assert sorted(tensor[mask].tolist()) == sorted(values)[len(values) - count :]


@pytest.mark.parametrize(
    "select",
    [masks.top, lambda values, count, generator: masks._top_on_device(values, count, generator)],
)
def test_top_breaks_ties_at_random(select):
    generator = torch.Generator().manual_seed(0)
    values = torch.tensor([1.0, 5.0, 1.0, 1.0, 0.0])
    total = np.zeros(5)
    for _ in range(3000):
        total += select(values, 2, generator=generator).numpy()
    assert total[1] == 3000
    assert total[4] == 0
    assert chisquare(total[[0, 2, 3]]).pvalue > 1e-3
