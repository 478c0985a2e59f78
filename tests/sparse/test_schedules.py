"""Progress -> fraction, against closed forms."""

import pytest

from rsas.sparse.schedules import interpolate


@pytest.mark.parametrize(
    ("shape", "progress", "expected"),
    [
        ("linear", 0.0, 0.3),
        ("linear", 0.5, 0.2),
        ("linear", 1.0, 0.1),
        ("cosine", 0.0, 0.3),
        ("cosine", 1 / 3, 0.25),  # cos 60 degrees = 1/2: a quarter of the way
        ("cosine", 0.5, 0.2),
        ("cosine", 1.0, 0.1),
        ("constant", 0.9, 0.3),
        ("linear", 1.7, 0.1),
        ("cosine", -2.0, 0.3),
    ],
)
def test_interpolate(shape, progress, expected):
    assert interpolate(shape, 0.3, 0.1, progress) == pytest.approx(expected, abs=1e-12)


def test_linear_from_0_to_1_is_the_progress_itself():
    # floor(k * epoch / epochs) of the published algorithm depends on the last bit.
    assert all(interpolate("linear", 0.0, 1.0, e / 500) == e / 500 for e in range(500))
