"""The benchmark of schedulers, in small: searches on learning curves of a known form."""

import math

import pytest

from rsas.sweep.suggest.halving import Halving
from tests.benchmarks.scheduler import run, wide_search

EPOCHS = 27
BUDGET = 32 * EPOCHS


def curve(fields):
    """Accuracy that grows to a limit, lower for sparse networks and unfit learning rates."""
    unfit = (math.log10(fields["lr"]) + 1.5) ** 2
    limit = (0.98 - 0.1 * fields["sparsity"] ** 8) * math.exp(-unfit / 4)
    for epoch in range(1, EPOCHS + 1):
        yield [limit * (1 - math.exp(-epoch / (3 + unfit))), fields["sparsity"]]


def searched(halving=None, seed=0, begin=curve):
    return run(begin, wide_search("random", seed, EPOCHS), halving, BUDGET)


def test_without_halving_every_trial_takes_all_epochs():
    course, begun = searched()
    assert [used for used, _ in course][-1] <= BUDGET
    assert len(course) == 32
    assert begun <= 32 + 4
    assert [value for _, value in course] == sorted(value for _, value in course)


def test_a_training_that_ends_early_has_diverged():
    course, begun = searched(begin=lambda fields: iter([[0.5, 0.5]]))
    assert (course, begun) == ([], BUDGET // 2 + 3)  # two epochs each; three run yet


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_halving_gets_more_out_of_the_same_epochs(seed):
    """More configurations are tried, and the front is reached sooner."""
    full, begun = searched(seed=seed)
    objectives = wide_search().objectives
    halved, more = searched(Halving(objectives, epochs=EPOCHS, first=3, reduction=3), seed)
    assert more > 2 * begun
    reached = next(used for used, value in halved if value >= full[-1][1])
    assert reached <= 0.6 * BUDGET
