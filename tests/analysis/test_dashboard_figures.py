"""What the dashboards show: points know their trial, tables and links say what is known."""

import pytest

from rsas.analysis import Sweep, compare, dashboard_figures, plots, split_by
from rsas.records import TrialRecord
from tests.made import OBJECTIVES

VALUES = ((0.9, 0.5), (0.8, 0.4), (0.7, 0.9))  # t0001 is dominated


def trial(number, values, state="complete", **params):
    names = [objective.name for objective in OBJECTIVES]
    return TrialRecord(
        trial_id=f"t{number:04d}",
        state=state,
        params=params,
        objectives=dict(zip(names, values, strict=True)) if values else {},
        started=0.0,
        finished=float(number) if values else None,
        epochs=10.0,
        device_seconds=60.0,
    )


def sweep(name="one", uri="sqlite:///mlflow.db", trials=None):
    methods = ("static", "reinforced", "static")
    if trials is None:
        trials = [
            trial(i, v, method=m) for i, (v, m) in enumerate(zip(VALUES, methods, strict=True))
        ]
        trials.append(trial(3, None, "running", method="static"))
    return Sweep(
        name=name,
        state="running",
        experiment={"base": {"epochs": 10, "method": "rigl"}, "budget": {"trials": 8}},
        objectives=OBJECTIVES,
        trials=trials,
        history=lambda trial: [],
        runs={"t0000": "abc", "t0002": "def"},
        tracking_uri=uri,
    )


def test_points_of_the_front_know_their_trial():
    sweeps = [sweep("one"), sweep("two")]
    figure = dashboard_figures.front_panel(sweeps)
    for curve, trace in enumerate(figure.data):
        for index, (x, y) in enumerate(zip(trace.x, trace.y, strict=True)):
            told = {"curveNumber": curve, "pointIndex": index, "x": x, "y": y}
            ((name, found),) = dashboard_figures.picked(figure, [told, told, {}])
            assert VALUES[int(found[1:])] == (y, x)
            assert name == ("one" if curve < 3 else "two")
    assert [list(trace.x) for trace in figure.data[1::3]] == [[0.5, 0.9], [0.5, 0.9]]  # fronts


def test_chosen_trials_stand_out():
    static, reinforced, members, _ = dashboard_figures.front_panel(
        [sweep()], [("one", "t0002")]
    ).data
    assert members.selectedpoints == (1,) and static.selectedpoints == (1,)
    assert reinforced.selectedpoints == ()
    assert all(
        trace.selectedpoints is None for trace in dashboard_figures.front_panel([sweep()]).data
    )


def test_table_has_the_front_first_and_filters():
    rows = dashboard_figures.trials_table([sweep()], ui="http://127.0.0.1:5000/")
    assert list(rows["trial"]) == ["t0002", "t0000", "t0003", "t0001"]
    assert list(rows["front"]) == ["●", "●", "", ""]
    assert list(rows["validation accuracy"][:2]) == [0.7, 0.9]
    assert rows["MLflow"][0] == "http://127.0.0.1:5000/#/runs/def" and rows["MLflow"][2] == ""
    assert "sweep" not in rows
    both = dashboard_figures.trials_table(
        [sweep("one"), sweep("two")], [("two", "t0001"), ("one", "t0000")]
    )
    assert list(both["sweep"] + both["trial"]) == ["onet0000", "twot0001"]


@pytest.mark.parametrize(
    ("uri", "ui", "url"),
    [
        ("sqlite:///mlflow.db", "http://127.0.0.1:5000", "http://127.0.0.1:5000/#/runs/abc"),
        ("sqlite:///mlflow.db", "", ""),
        (
            "http://user:secret@host:80/base/",
            "http://127.0.0.1:5000",
            "http://host:80/base/#/runs/abc",
        ),
    ],
)
def test_address_of_a_run(uri, ui, url):
    assert dashboard_figures.run_url(sweep(uri=uri), "t0000", ui) == url
    assert dashboard_figures.run_url(sweep(uri=uri), "t0001", ui) == ""


def test_summary_counts():
    told = {label: (number, note) for label, number, note in dashboard_figures.summary(sweep())}
    assert told["state"] == ("running", "3 of 8 trials done")
    assert told["complete"] == ("3", "1 running")
    assert told["validation accuracy"] == ("0.9000", "best, t0000")
    assert told["sparsity"] == ("0.9000", "best, t0002")
    # (0.9 - 0.1) * 0.5 + (0.7 - 0.1) * (0.9 - 0.5)
    assert told["hypervolume"][0] == "0.6400"
    assert told["device time"][0] == "0:04:00"
    assert len(dashboard_figures.summary(sweep(trials=[]))) == 5  # nothing is best yet


def test_a_sweep_by_its_methods():
    parts = split_by(sweep(), "method")
    assert [part.name for part in parts] == ["one reinforced", "one static"]
    assert [t.trial_id for t in parts[1].trials] == ["t0000", "t0002", "t0003"]
    assert [part.name for part in split_by(sweep(trials=[trial(0, VALUES[0])]), "method")] == [
        "one rigl"
    ]
    found = compare(*parts)
    table = dashboard_figures.volumes_table(found)
    assert list(table["sweep"]) == ["one reinforced", "one static"]
    assert table["hypervolume"][0] == pytest.approx(0.7 * 0.4)
    assert list(table["95%"]) == ["", ""]  # of one seed alone
    curves = plots.values_figure(found).data
    assert [curve.name for curve in curves] == ["one reinforced", "one static"]


def test_course_ends_at_the_hypervolume():
    trials, seconds = plots.course_figure([sweep()]).data
    assert list(trials.x) == [1, 2, 3] and list(seconds.x) == [60.0, 120.0, 180.0]
    assert trials.y[-1] == seconds.y[-1] == pytest.approx(0.64)


def test_a_trial_as_a_column():
    rows = dashboard_figures.trials_table([sweep()], [("one", "t0000")])
    told = dict(dashboard_figures.as_column(rows).itertuples(index=False))
    assert told["validation accuracy"] == "0.9" and told["method"] == "static"
    assert not {"MLflow", "trial"} & set(told)
    assert dashboard_figures.first_choice(sweep()) in ("t0000", "t0002")
    assert dashboard_figures.first_choice(sweep(trials=[])) == ""
