"""When masks are redrawn and what they become."""

import math

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from rsas import InputError
from rsas.sparse import (
    GradualPruning,
    NoisePruning,
    Position,
    PublishedNoise,
    PublishedPruning,
    ReinforcedPruning,
    RigLPruning,
    SetPruning,
    StaticPruning,
    Target,
)
from rsas.sparse.distributions import kept
from rsas.sparse.schedules import count_of


def positions(epochs, steps):
    return [
        Position(epoch, step, epochs, steps) for epoch in range(epochs) for step in range(steps)
    ]


def plan(method, epochs, steps):
    """Step of the training -> progress, for all steps at which masks are redrawn."""
    clock = method.clock
    due = [at for at in positions(epochs, steps) if clock.ahead(at) == 0]
    return {at.done - 1: clock.progress(at) for at in due}


def shares(share, method, epochs, steps):
    """Step of the training -> share, for all steps at which masks are redrawn."""
    return {at: share(progress) for at, progress in plan(method, epochs, steps).items()}


@pytest.mark.parametrize(("epochs", "steps"), [(8, 30), (3, 7), (1, 25)])
def test_published_clock_and_schedule(epochs, steps):
    expected = {}
    for epoch in range(epochs):
        for i in range(steps):
            if i % 10 == 0 and epoch < epochs - 1:
                expected[epoch * steps + i] = epoch / epochs
            elif epoch == epochs - 1 and i == 0:
                expected[epoch * steps + i] = 1.0
    method = PublishedPruning()
    assert shares(method.exploited, method, epochs, steps) == expected


def test_default_explores_less_and_less_and_stops_at_three_quarters():
    method = ReinforcedPruning(update_interval=10)
    explored = shares(method.explored, method, epochs=4, steps=50)  # 200 steps, stop after 150
    assert list(explored) == [*range(9, 150, 10)]
    assert explored[149] == 0.0
    done = 70
    assert explored[done - 1] == pytest.approx(0.6 * (1 + math.cos(math.pi * done / 150)) / 2)
    assert list(explored.values()) == sorted(explored.values(), reverse=True)
    for progress in explored.values():
        assert method.explored(progress) == 1 - method.exploited(progress)


def test_a_training_shorter_than_the_interval_ends_with_the_best():
    assert plan(ReinforcedPruning(update_interval=100), epochs=2, steps=10) == {14: 1.0}


def test_the_last_epoch_before_the_stop_is_not_off_by_rounding():
    method = PublishedPruning(exploration_stop=0.07)
    assert 0.07 * 100 > 7
    assert max(plan(method, 100, 1)) == 6  # counted from 0: the seventh epoch


def test_static_never_redraws():
    assert StaticPruning().clock is None


def learned(method, epochs, steps):
    """Steps of the training whose rewards count."""
    counted = method.learner(torch.device("cpu")).steps
    aheads = {at.done - 1: method.clock.ahead(at) for at in positions(epochs, steps)}
    return [step for step, ahead in aheads.items() if ahead < counted]


def test_global_credit_learns_at_every_step_until_the_stop():
    method = ReinforcedPruning(credit="global", update_interval=10)
    assert learned(method, 4, 50) == list(range(150))
    assert learned(PublishedPruning(), 4, 25) == list(range(76))


def test_per_weight_credit_learns_at_the_last_steps_before_each_redraw():
    method = ReinforcedPruning(
        credit="per_weight", credit_steps=3, update_interval=10, exploration_stop=0.5
    )
    # Redraws after 10, 20 and, the stop, 25 steps of 50.
    assert learned(method, 2, 25) == [7, 8, 9, 17, 18, 19, 22, 23, 24]
    for interval, steps, epochs in ((10, 25, 3), (7, 7, 2), (5, 3, 4)):
        for clock in ("training", "epoch"):
            method = PublishedPruning(
                credit="per_weight",
                credit_steps=2,
                update_interval=interval,
                update_clock=clock,
                exploration_stop=1.0,
            )
            redrawn = list(plan(method, epochs, steps))
            expected = {max(0, r - before) for r in redrawn for before in (0, 1)}
            assert learned(method, epochs, steps) == sorted(expected)


def test_set_and_rigl_replace_less_and_less_until_three_quarters():
    for method in (SetPruning(update_interval=10), RigLPruning(update_interval=10)):
        drops = shares(method.explored, method, epochs=4, steps=50)  # stop after 150 of 200 steps
        assert list(drops) == [*range(9, 149, 10)]
        assert drops[49] == pytest.approx(0.3 / 2 * (1 + math.cos(math.pi * 50 / 150)))
        assert drops[139] == pytest.approx(0.3 / 2 * (1 + math.cos(math.pi * 140 / 150)))


def test_gmp_reaches_its_sparsity_by_the_cube_of_what_is_left(layer):
    method = GradualPruning(update_interval=10, update_stop=0.5)
    progress = plan(method, epochs=4, steps=50)
    assert list(progress) == [*range(9, 100, 10)]
    pruned = layer(torch.ones(900), keep=100)
    assert method.schedule(pruned, progress[49]).keep == 900 - 800 * (1 - 0.5**3)
    assert method.schedule(pruned, progress[99]).keep == 100
    assert all(method.explored(value) == 0 for value in progress.values())


@pytest.mark.parametrize(
    "method",
    [
        RigLPruning(update_interval=10, grow_steps=4),
        ReinforcedPruning(update_interval=10, exploration_steps=4),
        PublishedPruning(exploration_steps=4),
    ],
)
def test_every_step_knows_how_far_ahead_the_next_redraw_is(method):
    redrawn = list(plan(method, 4, 25))
    for at in positions(4, 25):
        later = [step - (at.done - 1) for step in redrawn if step >= at.done - 1]
        if later and later[0] < 4:
            assert method.clock.ahead(at) == later[0]
        else:
            assert method.clock.ahead(at) >= 4


WEIGHT = [[0.9, -0.1, 0.5, 0.0], [0.0, 0.3, -0.7, 0.2]]
MASK = [[True, True, True, False], [False, True, True, True]]
GRADIENT = [[0.1, 0.2, 0.0, -0.6], [0.5, -0.3, 0.0, 0.4]]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("share", "left", "grown"),
    [
        (0.0, MASK, []),
        (0.16, MASK, []),  # floor(6 * 0.16) = 0
        # The smallest on is -0.1; of it and those off, (0, 3) has the largest gradient.
        (0.2, [[1, 0, 1, 0], [0, 1, 1, 1]], [(0, 3)]),
        # 0.2 falls, too; (1, 0) is next, before the dropped (1, 3) with 0.4.
        (0.34, [[1, 0, 1, 0], [0, 1, 1, 0]], [(0, 3), (1, 0)]),
        # The dropped (1, 3) grows back.
        (0.5, [[1, 0, 1, 0], [0, 0, 1, 0]], [(0, 3), (1, 0), (1, 3)]),
        (1.0, [[0] * 4] * 2, [(0, 3), (1, 0), (1, 3), (1, 1), (0, 1), (0, 0)]),
    ],
)
def test_rigl_and_set_by_hand(share, left, grown, layer):
    pruned = layer(WEIGHT, MASK, gradient=GRADIENT)
    left = torch.tensor(left, dtype=torch.bool)
    expected = left.clone()
    for position in grown:
        expected[position] = True
    generator = torch.Generator().manual_seed(0)
    rigl, set_ = RigLPruning(drop_fraction=share), SetPruning(drop_fraction=share)
    assert torch.equal(rigl.next_mask(pruned, 0.0, generator=generator), expected)

    times = 4000 if grown else 1
    counts = torch.zeros(2, 4)
    for _ in range(times):
        mask = set_.next_mask(pruned, 0.0, generator=generator)
        assert mask.sum() == 6
        assert mask[left].all()
        counts += mask
    if grown:  # uniform over all that are not left, those just dropped included
        drawn = counts[~left]
        assert chisquare(drawn.numpy()).pvalue > 1e-4


@example(count=100, percent=29)  # 100 * 0.29 is 28.999999999999996
@given(count=st.integers(0, 10**6), percent=st.integers(0, 100))
def test_counts_are_rounded_down_and_not_off_by_the_last_bit(count, percent):
    assert count_of(count, percent / 100) == count * percent // 100


def test_rigl_never_takes_what_stays_for_what_grows(layer):
    """Where gradients are zero, as behind dead units, the count holds all the same."""
    pruned = layer(torch.arange(1.0, 21), torch.arange(20) < 10, gradient=torch.zeros(20))
    generator = torch.Generator().manual_seed(0)
    mask = RigLPruning(drop_fraction=0.3).next_mask(pruned, 0.0, generator=generator)
    assert mask.sum() == 10
    assert mask[3:10].all()


def test_weights_that_are_on_and_zero_are_dropped_before_others_are_kept_off(layer):
    """A weight that has just grown is zero and on; those off are zero, too, and stay off."""
    pruned = layer([0.0, 0.0, 0.0, 2.0], [True, False, False, True], gradient=[0, 0, 0, 0])
    assert SetPruning().next_mask(pruned, 1.0).tolist() == [True, False, False, True]


def test_an_own_method_overrides_the_scores(layer):
    class Inverse(SetPruning):
        """Keep the weights of the largest gradient, and explore those of the smallest."""

        def keep_score(self, layer):
            return layer.gradient.abs()

        def fill_score(self, layer):
            return -layer.gradient.abs()

    pruned = layer(torch.ones(6), [True] * 4 + [False] * 2, gradient=[6, -5, 4, 3, -2, 1])
    mask = Inverse(drop_fraction=0.5).next_mask(pruned, 0.0)
    assert mask.tolist() == [True, True, False, False, True, True]


def test_gmp_by_hand(layer):
    pruned = layer([0.1, -0.9, 0.5, 0.3, -0.2, 0.8], keep=2)
    method = GradualPruning()
    assert method.next_mask(pruned, 0.0).all()
    half = 1 - 0.5 ** (1 / 3)  # of the final sparsity
    assert method.next_mask(pruned, half).tolist() == [False, True, True, True, False, True]
    pruned.use(torch.tensor([True, False, True, True, True, True]))  # -0.9 was dropped before
    assert method.next_mask(pruned, 1.0).tolist() == [False, False, True, False, False, True]


def test_noise_exploits_values_that_nothing_changes(layer):
    method = NoisePruning()
    generator = torch.Generator().manual_seed(0)
    weight = torch.zeros(50, 40)
    values = method.first_measure(weight, generator)
    assert values.shape == weight.shape
    assert ((values >= 0) & (values < 1)).all()
    assert chisquare(torch.histc(values, 10, 0, 1).numpy()).pvalue > 1e-3
    assert method.learner(torch.device("cpu")) is None
    for noise, learned in (
        (NoisePruning(), ReinforcedPruning()),
        (PublishedNoise(), PublishedPruning()),
    ):
        redrawn = plan(noise, 2, 200)
        assert redrawn == plan(learned, 2, 200)
        assert all(noise.exploited(p) == learned.exploited(p) for p in redrawn.values())


def test_exploration_by_gradient_takes_the_largest_of_the_rest(layer):
    method = ReinforcedPruning(exploration_draw="gradient", exploration_start=0.5)
    measure = [9.0, 8.0, 1.0, 2.0, 3.0, 0.0]
    gradient = [0.0, 0.0, -5.0, 0.1, 0.2, 4.0]
    pruned = layer(torch.ones(6), keep=4, measure=measure, gradient=gradient)
    assert method.next_mask(pruned, 0.0).tolist() == [True, True, True, False, False, True]


@given(
    size=st.integers(1, 300),
    sparsity=st.floats(0, 1),
    explored=st.floats(0, 1),
    draw=st.sampled_from(["uniform", "gradient"]),
    seed=st.integers(0, 2**32),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_exact_budget_has_exactly_k_ones_and_the_best_among_them(
    size, sparsity, explored, draw, seed, layer
):
    method = ReinforcedPruning(exploration_draw=draw, exploration_start=explored)
    generator = torch.Generator().manual_seed(seed)
    measure = torch.randn(size, generator=generator)
    keep = kept(size, sparsity)
    pruned = layer(
        torch.ones(size),
        keep=keep,
        measure=measure,
        gradient=torch.randn(size, generator=generator),
    )
    mask = method.next_mask(pruned, 0.0, generator=generator)
    assert mask.sum() == keep
    best = math.floor(keep * (1 - explored))
    assert mask[measure.argsort(descending=True)[:best]].all()


def test_overshoot_has_the_published_density(layer):
    # algorithm.md, fault 2: about (1-s)(1 + s*p) when the share p is exploited.
    method = PublishedPruning()
    generator = torch.Generator().manual_seed(0)
    keep = method.keeps(10_000, 100_000, Target(sparsity=0.9))
    assert keep == math.floor(100_000 * (1 - 0.9))
    measure = torch.randn(100_000, generator=generator)
    pruned = layer(torch.zeros(100_000), keep=keep, measure=measure)
    mask = method.next_mask(pruned, 0.5, generator=generator)
    assert mask.float().mean().item() == pytest.approx(0.1 * (1 + 0.9 * 0.5), abs=1e-3)
    assert method.next_mask(pruned, 1.0, generator=generator).sum() == keep


def test_explored_weights_are_drawn_uniformly_from_the_rest(layer):
    method = ReinforcedPruning(exploration_draw="uniform", exploration_start=0.5)
    generator = torch.Generator().manual_seed(1)
    pruned = layer(torch.zeros(20), keep=10, measure=torch.arange(20.0))
    counts = sum(method.next_mask(pruned, 0.0, generator=generator).float() for _ in range(3000))
    assert (counts[15:] == 3000).all()
    rest = counts[:15] / 3000
    # Five of fifteen; four standard deviations of a binomial share.
    assert rest.tolist() == pytest.approx([1 / 3] * 15, abs=4 * math.sqrt(2 / 9 / 3000))


def test_defaults_of_the_published_algorithm_have_the_range_of_the_option():
    assert PublishedPruning().measure_lr == 0.01
    with pytest.raises(InputError, match=r"measure_lr=7: expected a number in \(0, 1\]"):
        PublishedPruning(measure_lr=7)
