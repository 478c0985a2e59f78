"""The report: whole without a network, drawn without errors, its numbers those of the sweep."""

import dataclasses
import re

import pytest

from rsas import InputError
from rsas.analysis import front, hypervolume, knee
from rsas.analysis.parallel import parallel_figure
from rsas.analysis.plots import attainment_figure
from rsas.analysis.report import report
from rsas.load import load_sweep
from tests.analysis.conftest import EXPERIMENT


@pytest.fixture(scope="module")
def sweeps(made):
    return [load_sweep(name, workspace=made, runs=False) for name in ("made", "other")]


@pytest.fixture(scope="module")
def pages(sweeps, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    paths = {"one": folder / "one.html", "two": folder / "two.html"}
    paths["one"].write_text(report(sweeps[:1]), encoding="utf-8")
    paths["two"].write_text(report(sweeps), encoding="utf-8")
    return paths


@pytest.mark.slow
def test_nothing_comes_from_elsewhere(pages):
    for path in pages.values():
        page = re.sub(r"<script>.*?</script>", "", path.read_text("utf-8"), flags=re.DOTALL)
        assert not re.search(r"""(src|href)=["']?(https?:)?//""", page)


@pytest.mark.parametrize("name", ["one", "two"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_drawn_without_errors_or_a_network(name, scheme, pages, browser, sweeps):
    context = browser.new_context(color_scheme=scheme, offline=True)
    page = context.new_page()
    errors, asked = [], []
    page.on("console", lambda told: errors.append(told.text) if told.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(pages[name].as_uri())
    page.wait_for_selector("body[data-ready]", timeout=60_000)
    assert page.locator("figure").count() == page.locator("figure .main-svg").count() / 3
    points = page.evaluate(
        "document.querySelector('figure').data.filter(t => /lines/.test(t.mode))[0].customdata"
    )
    assert points == [t.trial_id for t in front(sweeps[0].trials, EXPERIMENT.objectives)]
    color = page.evaluate("getComputedStyle(document.querySelector('.gtitle, .xtitle')).fill")
    assert color == {"light": "rgb(30, 41, 59)", "dark": "rgb(229, 234, 241)"}[scheme]
    # Nothing is wider than the page, also on a phone: tables scroll for themselves.
    for width in (1100, 390):
        page.set_viewport_size({"width": width, "height": 800})
        # Figures are drawn anew, which takes a while on a machine that has other work.
        page.wait_for_function("w => document.documentElement.scrollWidth <= w", arg=width)
    assert errors == []
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []
    context.close()


def test_its_numbers_are_those_of_the_sweep(pages, sweeps):
    page = pages["one"].read_text("utf-8")
    volume = hypervolume(sweeps[0].trials, EXPERIMENT.objectives)
    assert f"<b>{volume:.4f}</b><span>hypervolume</span>" in page
    assert "<b>9</b><span>trials complete</span>" in page
    assert "<b>1</b><span>stopped early</span>" in page
    assert "<b>2</b><span>seeds per trial</span>" in page
    assert "out of memory" in page  # why a trial failed, in the table of all
    both = pages["two"].read_text("utf-8")
    other = hypervolume(sweeps[1].trials, EXPERIMENT.objectives)
    word = "larger" if other > volume else "smaller"
    assert f"The hypervolume of other is {abs(other - volume):.4f} {word} than that of made" in both


def test_the_knee_is_held_against_the_best_of_the_first_objective(sweeps):
    turned = dataclasses.replace(sweeps[0], objectives=sweeps[0].objectives[::-1])
    middle = knee(turned.trials, turned.objectives).objectives
    best = max(front(turned.trials, turned.objectives), key=lambda t: t.objectives["sparsity"])
    given = best.objectives["sparsity"] - middle["sparsity"]
    assert given > 0
    assert f"for {given:.4f} of sparsity given up" in report([turned])


def test_what_users_wrote_is_text(sweeps):
    evil = "<script>alert(1)</script>"
    trials = [
        dataclasses.replace(trial, params={**trial.params, "method": evil}, reason=evil)
        for trial in sweeps[0].trials
    ]
    page = report([dataclasses.replace(sweeps[0], name=evil, trials=trials)])
    assert evil not in page.replace("<\\/", "</").split('id="figures"')[0]
    assert "</script>alert" not in page and page.count("<script>alert") == page.count(
        "<script>alert(1)<\\/script>"
    )


def test_without_a_complete_trial(sweeps):
    with pytest.raises(InputError, match="'made' has no complete trial yet"):
        report([dataclasses.replace(sweeps[0], trials=sweeps[0].trials[1:4])])


def test_parallel_axes_hold_what_trials_have(sweeps):
    complete = [trial for trial in sweeps[0].trials if trial.state == "complete"]
    axes = {axis.label: axis for axis in parallel_figure(sweeps[0]).data[0].dimensions}
    assert list(axes)[-2:] == ["val_accuracy", "sparsity"]
    rates = [trial.params.get("measure_lr") for trial in complete]
    shown = axes["measure_lr"]
    assert "none" in shown.ticktext and None in rates
    for rate, value in zip(rates, shown.values, strict=True):
        assert value == shown.range[0] if rate is None else 10**value == pytest.approx(rate)
    methods = axes["method"]
    told = [methods.ticktext[methods.tickvals.index(value)] for value in methods.values]
    assert told == [trial.params["method"] for trial in complete]


def test_attainment_needs_seeds(sweeps):
    trials = [dataclasses.replace(trial, by_seed={}) for trial in sweeps[0].trials]
    with pytest.raises(InputError, match="needs several seeds"):
        attainment_figure(dataclasses.replace(sweeps[0], trials=trials))
    assert [trace.name for trace in attainment_figure(sweeps[0]).data] == [
        "the best seed",
        "half of the seeds",
        "all",
    ]
