"""Repeats against trainings that run alone, and closed forms."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import rsas
from rsas import InputError, TrainConfig, seed_study
from rsas.analysis.training_plots import repeats_figure, tradeoff_figure
from rsas.cli.repeat import _known
from rsas.seed_study import COLUMNS, comparison, mean_interval, runs_of, train_all

BASE = TrainConfig(hidden=(20,), epochs=2, batch_size=100, update_interval=5)
CONFIGS = {"first": BASE, "static": BASE.replace(method="static")}
QUICKSTART = "experiments/digits_quickstart.py"
FAST = ["--set", "epochs=1", "--set", "hidden=10", "--vs", "method=static", "--seeds"]


@pytest.fixture
def cli(monkeypatch, command_line, request):
    monkeypatch.chdir(request.config.rootpath)
    return command_line


@pytest.fixture
def trained(monkeypatch):
    """The runs that are trained, as they begin."""
    begun, real = [], seed_study._row

    def row(run, *others):
        begun.append((run.name, run.config.seed))
        return real(run, *others)

    monkeypatch.setattr(seed_study, "_row", row)
    return begun


def alone(config):
    result = rsas.train(config)
    return result.history["val_accuracy"].iloc[-1], result.test_accuracy


def test_rows_are_what_each_configuration_does_alone():
    rows = list(train_all(runs_of(CONFIGS, [0, 7]), test=True))
    assert [(row["configuration"], row["seed"]) for row in rows] == [
        *(("first", 0), ("static", 0), ("first", 7), ("static", 7))
    ]
    for row in rows:
        assert tuple(row) == COLUMNS
        config = CONFIGS[row["configuration"]].replace(seed=row["seed"])
        expected = pytest.approx(alone(config), abs=1e-6)
        assert (row["val_accuracy"], row["test_accuracy"]) == expected
        assert row["sparsity"] == pytest.approx(0.9, abs=1e-3)
    assert len({row["run"] for row in rows}) == 4


@pytest.mark.slow
def test_several_at_once_do_the_same(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 2)  # a thread each, as in this process
    runs = runs_of(CONFIGS, [3, 4])
    told = ("configuration", "seed", "val_accuracy", "run")
    rows = [[tuple(row[name] for name in told) for row in train_all(runs, jobs=j)] for j in (1, 2)]
    assert sorted(rows[0]) == sorted(rows[1])


def test_the_test_split_is_left_alone_unless_asked_for(monkeypatch):
    def finish(trainer):
        raise AssertionError("reads the test split")

    monkeypatch.setattr(rsas.Trainer, "finish", finish)
    (row,) = train_all(runs_of({"first": BASE}, [0]))
    assert math.isnan(row["test_accuracy"])
    with pytest.raises(AssertionError, match="test split"):
        list(train_all(runs_of({"first": BASE}, [0]), test=True))


def test_a_run_that_diverges_is_told_and_the_others_go_on():
    configs = {
        "first": BASE,
        "wild": BASE.replace(lr=1000.0, weight_decay=0.9),
    }
    rows = pd.DataFrame(train_all(runs_of(configs, [0])))
    assert rows["val_accuracy"].isna().tolist() == [False, True]
    found = comparison(rows, "val_accuracy")
    assert found["mean"].isna().tolist() == [False, True]
    assert math.isnan(found["difference"][1])


def test_intervals_are_students():
    assert mean_interval([1.0, 2.0, 3.0]) == pytest.approx((2.0, 2 - 2.484138, 2 + 2.484138))
    values = [0.86, 0.871, 0.875, 0.869, 0.88]
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert mean_interval(values)[1:] == pytest.approx((expected.low, expected.high))
    assert mean_interval([0.5])[0] == 0.5
    assert all(math.isnan(bound) for bound in mean_interval([0.5])[1:])


def test_differences_are_paired_by_seed():
    first, other = [0.80, 0.90, 0.85], [0.82, 0.93, 0.86]
    rows = pd.DataFrame(
        {
            "configuration": ["a"] * 3 + ["b"] * 3,
            "seed": [0, 1, 2, 2, 0, 1],  # in the order in which they ended
            "accuracy": [*first, other[2], *other[:2]],
            "seconds": [1.0, 2.0, 3.0, 4.0, 5.0, 9.0],
        }
    )
    found = comparison(rows, "accuracy")
    assert found["configuration"].tolist() == ["a", "b"]
    assert found["values"][1] == other
    assert found["seconds"].tolist() == [2.0, 6.0]
    expected = stats.ttest_rel(other, first).confidence_interval(0.95)
    assert found["difference"][1] == pytest.approx(0.02)
    assert found["difference_low"][1] == pytest.approx(expected.low)
    assert found["difference_high"][1] == pytest.approx(expected.high)


def test_the_picture_has_each_seed_their_mean_and_its_interval():
    values = {
        "first": [0.80, 0.90],
        "a name so long that it is told in more lines than one": [0.7, 0.9],
    }
    rows = pd.DataFrame(
        [
            {"configuration": name, "seed": seed, "val_accuracy": value, "seconds": 1.0}
            for name, each in values.items()
            for seed, value in enumerate(each)
        ]
    )
    figure = repeats_figure(comparison(rows, "val_accuracy"), "val_accuracy")
    seeds, means = figure.data
    assert sorted(zip(seeds.x, [name.replace("<br>", " ") for name in seeds.y], strict=True)) == [
        (value, name) for value, name in sorted((v, n) for n, each in values.items() for v in each)
    ]
    assert list(means.x) == pytest.approx([0.85, 0.8])
    half = stats.t.ppf(0.975, 1) * np.array([0.05, 0.1])
    assert list(means.error_x.array) == pytest.approx(list(half))
    assert list(means.error_x.arrayminus) == pytest.approx(list(half))
    assert figure.layout.shapes[0].x0 == pytest.approx(0.85)
    assert figure.layout.xaxis.title.text == "validation accuracy"


def test_what_a_file_has_is_not_trained_again(cli, trained, tmp_path):
    path = tmp_path / "runs.csv"
    code, out, _ = cli("repeat", QUICKSTART, *FAST, "0,1", "--csv", path)
    assert code == 0
    assert "val accuracy in %, 2 seeds" in out
    before = path.read_text()
    assert len(before.splitlines()) == 5
    del trained[:]
    picture = tmp_path / "runs.html"
    code, again, _ = cli("repeat", QUICKSTART, *FAST, "0,1", "--csv", path, "--plot", picture)
    assert (code, trained, path.read_text()) == (0, [], before)
    assert again.startswith(out)
    assert "method=static" in picture.read_text()
    cli("repeat", QUICKSTART, *FAST, "0,1,2", "--csv", path)
    assert trained == [("reinforced", 2), ("method=static", 2)]
    del trained[:]
    code, out, _ = cli("repeat", QUICKSTART, *FAST, "0", "--csv", path, "--test")
    assert trained == [("reinforced", 0), ("method=static", 0)]  # their test accuracy is not there
    assert "test accuracy in %, 1 seeds" in out
    del trained[:]
    cli("repeat", QUICKSTART, *FAST, "0", "--csv", path, "--test")
    assert trained == []


def test_sparsities_are_compared_one_by_one(cli, trained, tmp_path):
    """Each as a comparison of its own would, and what is the same at all is trained once."""
    path, picture = tmp_path / "runs.csv", tmp_path / "runs.html"
    fast = [*FAST, "0,1", "--vs", "method=dense"]
    code, out, _ = cli(
        "repeat", QUICKSTART, *fast, "--sparsities", "0.5,0.9", "--csv", path, "--plot", picture
    )
    assert code == 0
    assert "method=static" in picture.read_text()
    assert sorted(trained) == sorted(
        [("reinforced", s) for s in (0, 1)] * 2
        + [("method=static", s) for s in (0, 1)] * 2
        + [("method=dense", s) for s in (0, 1)]
    )
    tables = out.split("digits_quickstart")[1:]
    for sparsity, table in zip(("0.5", "0.9"), tables, strict=True):
        _, alone, _ = cli("repeat", QUICKSTART, *fast, "--set", f"sparsity={sparsity}")
        means = [line.split("│")[2:4] for line in alone.splitlines() if "│" in line]
        assert [line.split("│")[2:4] for line in table.splitlines() if "│" in line] == means
        assert len(means) == 3
        assert f"at a sparsity of {sparsity}: val accuracy in %, 2 seeds" in table


def test_the_picture_over_sparsities_has_means_and_intervals():
    def compared(shift):
        return comparison(
            pd.DataFrame(
                [
                    {"configuration": name, "seed": seed, "val_accuracy": value, "seconds": 1.0}
                    for name, values in (("a", [0.8, 0.9]), ("b", [0.7, 0.9]))
                    for seed, value in enumerate(np.subtract(values, shift))
                ]
            ),
            "val_accuracy",
        )

    figure = tradeoff_figure({0.8: compared(0.0), 0.98: compared(0.2)}, "val_accuracy")
    assert [line.name for line in figure.data] == ["a", "b"]
    assert list(figure.data[0].y) == pytest.approx([0.85, 0.65])
    assert list(figure.data[1].y) == pytest.approx([0.8, 0.6])
    assert list(figure.data[1].error_y.array) == pytest.approx([stats.t.ppf(0.975, 1) * 0.1] * 2)
    assert figure.layout.xaxis.ticktext == ("0.8", "0.98")
    assert [round(at) for at in figure.data[1].x] == [0, 1]


def test_a_configuration_may_have_a_label(cli, tmp_path):
    densities = 'a map: distribution=map layer_densities={"*":1.0}'
    code, out, _ = cli(
        "repeat",
        QUICKSTART,
        *FAST,
        "0",
        "--vs",
        "drops nothing: method=set drop_fraction=0.0",
        "--vs",
        densities,
        "--csv",
        tmp_path / "runs.csv",
    )
    assert code == 0
    rows = pd.read_csv(tmp_path / "runs.csv").set_index("configuration")
    assert list(rows.index) == ["reinforced", "method=static", "drops nothing", "a map"]
    assert rows.loc["drops nothing", "val_accuracy"] == rows.loc["method=static", "val_accuracy"]
    assert "drops nothing" in out and "drop_fraction" not in out


def test_keys_of_digits_are_texts(tmp_path):
    row = dict.fromkeys(COLUMNS, 0.5) | {"configuration": "a", "run": "0123456789012345"}
    pd.DataFrame([row]).to_csv(tmp_path / "runs.csv", index=False)
    assert list(_known(tmp_path / "runs.csv", test=True)) == ["0123456789012345"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--vs", "metod=rigl"], "did you mean 'method'?"),
        (
            ["--vs", "method=rigl", "--vs", "method=rigl"],
            "'method=rigl': 'method=rigl' is given twice",
        ),
        (["--vs", "a: lr=1", "--vs", "a: lr=2"], "--vs 'a: lr=2': 'a' is given twice"),
        (["--vs", "reinforced: lr=1"], "'reinforced' is given twice"),
        (["--vs", "sparsity=0.999 model=nothing:net"], "cannot import 'nothing'"),
        (["--seeds", "0,0"], "--seeds '0,0': a number is given twice"),
        (["--sparsities", "0.8,0.80"], "--sparsities '0.8,0.80': a number is given twice"),
        (["--sparsities", "0.8,1.2"], "sparsity=1.2"),
        (["--sparsities", "0.8,nan"], "--sparsities '0.8,nan': expected numbers such as 0.8,0.9"),
        (["--sparsities", "0.8", "--vs", "method=gmp sparsity=0.9"], "not beside sparsity="),
        (["--seeds", "a"], "--seeds 'a': expected numbers such as 0,1,2"),
        (["--jobs", "0"], "--jobs 0: expected an integer from 1 on"),
        (["--set", "val_fraction=0"], "val_fraction=0: nothing is left to validate on"),
        (["--csv", "README.md"], "--csv 'README.md': cannot be read"),
        (["--csv", "experiments/results/search_efficiency.csv"], "expected the columns"),
        (["--csv", "nowhere/runs.csv"], "there is no folder 'nowhere'"),
        (["--plot", "nowhere/runs.html"], "there is no folder 'nowhere'"),
    ],
)
def test_bad_input_is_one_line(cli, trained, arguments, message):
    code, out, err = cli("repeat", QUICKSTART, *arguments)
    assert code == 2
    assert message in err
    assert err.count("\n") == 1
    assert out == ""
    assert trained == []


def test_data_without_a_test_split_have_no_test_accuracy(cli, trained, tmp_path):
    x, y = np.zeros((40, 8), np.float32), np.arange(40) % 2
    np.savez(tmp_path / "x.npz", x_train=x, y_train=y)
    code, _, err = cli("repeat", QUICKSTART, "--set", f"dataset=npz:{tmp_path}/x.npz", "--test")
    assert (code, trained) == (2, [])
    assert "has no test data" in err


def test_the_module_tells_what_does_not_fit():
    with pytest.raises(InputError, match="expected one of digits"):
        list(train_all(runs_of({"first": BASE.replace(dataset="cats")}, [0])))
