# /// script
# [tool.marimo.display]
# theme = "system"
# [tool.marimo.opengraph]
# title = "Compare"
# description = "Compare several sweeps, or the methods of one sweep."
# ///
"""Compare several sweeps, or the methods of one sweep."""

import marimo

__generated_with = "0.25.2"
app = marimo.App(
    width="medium", app_title="rsas: compare", css_file="style.css", html_head_file="head.html"
)


@app.cell
def _():
    import marimo as mo

    from dashboards import page
    from rsas import errors
    from rsas.analysis import compare, dashboard_figures, plots, split_by
    from rsas.load import load_sweep, sweep_names

    return errors, compare, load_sweep, mo, page, dashboard_figures, plots, split_by, sweep_names


@app.cell
def _(mo, page, sweep_names):
    _names = sweep_names()[::-1]
    mo.stop(not _names, mo.vstack([page.heading("Compare", ""), page.nothing()]))
    picker = mo.ui.multiselect(_names, value=_names[:2], label="Sweeps")
    grouping = mo.ui.dropdown(["sweep", "method"], value="sweep", label="by")
    page.heading(
        "Compare", "Which front is better, where, and with which confidence.", picker, grouping
    )
    return grouping, picker


@app.cell
def _(errors, compare, grouping, load_sweep, mo, page, picker, split_by):
    mo.stop(not picker.value, page.message("Choose sweeps above."))
    try:
        _loaded = [load_sweep(name) for name in picker.value]
        if grouping.value == "method":
            _loaded = [part for sweep in _loaded for part in split_by(sweep, "method")]
        sweeps = [sweep for sweep in _loaded if sweep.front]  # compare needs fronts
        comparison = compare(*sweeps)
    except (errors.InputError, errors.StorageError) as _error:
        mo.stop(True, page.message(str(_error)))
    return comparison, sweeps


@app.cell
def _(mo, sweeps):
    get_chosen, set_chosen = mo.state([] if sweeps else None)
    return get_chosen, set_chosen


@app.cell
def _(comparison, page, dashboard_figures, set_chosen, sweeps):
    _front = dashboard_figures.front_panel(sweeps)
    fronts = page.plot(_front, lambda points: set_chosen(dashboard_figures.picked(_front, points)))
    page.columns(
        page.part("Fronts", page.HOW_TO_CHOOSE, fronts),
        page.part(
            "Hypervolume",
            "With the interval of 95% over seeds, if there are several.",
            page.plain(dashboard_figures.volumes_table(comparison)),
        ),
        kind="wide-left",
    )
    return (fronts,)


@app.cell
def _(comparison, page, dashboard_figures, plots, sweeps):
    page.columns(
        page.part(
            "Along the front",
            "The best value of each sweep; bars are intervals of 95% over seeds.",
            page.plot(dashboard_figures.on_page(plots.values_figure(comparison))),
        ),
        page.part(
            "Course",
            "The growth of the hypervolumes.",
            page.plot(dashboard_figures.on_page(plots.course_figure(sweeps))),
        ),
        page.part(
            "Best sweep by range",
            "Ranges of the last objective, and the mean lead over the next best sweep.",
            page.plain(comparison.ranges),
        ),
        page.part(
            "Compared with the first",
            "Epsilon: how far a sweep's front must be shifted to cover the front of the first.",
            page.plain(comparison.differences),
        ),
    )
    return


@app.cell
def _(get_chosen, page, dashboard_figures, sweeps):
    _chosen = get_chosen()
    _rows = dashboard_figures.trials_table(sweeps, _chosen, ui=page.mlflow_ui())
    table = page.table(_rows)
    page.trials(_rows, table, chosen=bool(_chosen))
    return (table,)


if __name__ == "__main__":
    app.run()
