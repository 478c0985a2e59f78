"""The benchmark of schedulers, in small: searches replayed on curves of real trainings."""

import pytest

from rsas.search.scheduler import Halving
from tests.benchmarks.scheduler import EPOCHS, Curves, reached, replay, search

BUDGET = 32 * EPOCHS


@pytest.fixture(scope="module")
def curves():
    return Curves()


def run(curves, objectives=None, seed=0):
    experiment = search("random", seed)
    halving = objectives and Halving(objectives, epochs=EPOCHS, first=3, reduction=3)
    return replay(curves.reader(), experiment, halving, BUDGET)


def test_without_halving_every_trial_takes_all_epochs(curves):
    course, begun = run(curves)
    assert [used for used, _ in course][-1] <= BUDGET
    assert len(course) == 32
    assert begun <= 32 + 4
    assert [value for _, value in course] == sorted(value for _, value in course)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_halving_gets_more_out_of_the_same_epochs(curves, seed):
    """More configurations are tried, and the front is reached sooner."""
    objectives = search().objectives
    full, begun = run(curves, seed=seed)
    halved, more = run(curves, objectives, seed)
    assert more > 2 * begun
    assert reached(halved, 0.98 * full[-1][1]) < reached(full, 0.98 * full[-1][1])
    assert halved[-1][1] > full[-1][1] - 0.005
