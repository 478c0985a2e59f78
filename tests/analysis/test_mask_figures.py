"""Pictures of one network, against counts made by loops."""

import numpy as np
import pandas as pd
import pytest

from rsas.analysis import mask_figures


def mask_of(*shape, seed=0):
    return np.random.default_rng(seed).random(shape) < 0.3


def test_a_small_mask_is_its_own_picture():
    mask = mask_of(5, 7)
    assert np.array_equal(mask_figures.as_picture(mask), mask)


def test_a_large_mask_is_shares_of_blocks():
    mask = mask_of(10, 7)
    picture = mask_figures.as_picture(mask, cells=4)  # blocks of 3 x 2, the last ones smaller
    assert picture.shape == (4, 4)
    for i in range(4):
        for j in range(4):
            block = mask[3 * i : 3 * i + 3, 2 * j : 2 * j + 2]
            assert picture[i, j] == pytest.approx(block.mean())


def test_kernels_stand_side_by_side():
    mask = mask_of(3, 2, 5, 4)
    picture = mask_figures.as_picture(mask)
    assert picture.shape == (15, 8)
    for out in range(3):
        for into in range(2):
            tile = picture[5 * out : 5 * out + 5, 4 * into : 4 * into + 4]
            assert np.array_equal(tile, mask[out, into])


def test_inputs_in_use_are_counted_by_pixel():
    mask = mask_of(6, 2 * 3 * 4)
    counts = mask_figures.inputs_in_use(mask, (2, 3, 4))
    for row in range(3):
        for column in range(4):
            pixels = [channel * 12 + row * 4 + column for channel in range(2)]
            assert counts[row, column] == sum(mask[out, p] for out in range(6) for p in pixels)
    assert mask_figures.inputs_in_use(mask, (1, 5, 5)) is None
    assert mask_figures.inputs_in_use(mask_of(6, 2, 3, 4), (2, 3, 4)) is None


def test_layers_are_told_in_numbers():
    mask = np.array([[True, False, True], [False, False, False]])
    (row,) = mask_figures.layers_table({"fc1": mask}).to_dict("records")
    assert row == {
        "layer": "fc1",
        "shape": "2 x 3",
        "weights": 6,
        "on": 2,
        "density": pytest.approx(1 / 3),
        "outputs cut off": 1,
    }


def test_histograms_hold_each_weight_once():
    mask = mask_of(20, 30)
    measure = np.random.default_rng(1).normal(size=mask.shape)
    off, on = mask_figures.measure_panel(measure, mask).data
    assert sum(on.y) == mask.sum() and sum(off.y) == (~mask).sum()
    width = on.width[0]
    inside = abs(measure - on.x[25]) < width / 2
    assert on.y[25] == (inside & mask).sum() and off.y[25] == (inside & ~mask).sum()


def history(rows):
    frame = pd.DataFrame(rows, columns=["epoch", "name", "layer", "seed", "value"])
    return frame.astype({"seed": "Int64"})


def test_density_has_a_curve_a_layer():
    rows = [
        (epoch, "sparsity", layer, None, value + epoch / 100)
        for epoch in (1, 2)
        for layer, value in (("", 0.5), ("fc1", 0.6), ("fc2", 0.1))
    ]
    rows += [(1, "sparsity", "", 0, 0.9), (1, "churn", "", None, 0.2)]
    curves = mask_figures.curves_panel(history(rows), ["density"], "density").data
    assert [curve.name for curve in curves] == ["all", "fc1", "fc2"]
    assert list(curves[1].y) == pytest.approx([0.39, 0.38])
    (churn,) = mask_figures.curves_panel(history(rows), ["churn"], "churn").data
    assert list(churn.y) == [0.2]


def test_what_was_not_recorded_is_said():
    figure = mask_figures.curves_panel(history([]), ["churn"], "churn")
    assert [note.text for note in figure.layout.annotations] == ["not recorded"]
