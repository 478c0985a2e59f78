# /// script
# [tool.marimo.display]
# theme = "system"
# [tool.marimo.opengraph]
# title = "Sweep"
# description = "A running or ended sweep: its state, its front, its trials."
# ///
"""A running or ended sweep: its state, its front, its trials."""

import marimo

__generated_with = "0.25.2"
app = marimo.App(
    width="medium", app_title="rsas: sweep", css_file="style.css", html_head_file="head.html"
)


@app.cell
def _():
    import marimo as mo

    from dashboards import page
    from rsas import errors
    from rsas.analysis import dashboard_figures, plots
    from rsas.load import load_sweep, sweep_names

    return errors, load_sweep, mo, page, dashboard_figures, plots, sweep_names


@app.cell
def _(mo, page, sweep_names):
    _names = sweep_names()
    mo.stop(not _names, mo.vstack([page.heading("Sweep", ""), page.nothing()]))
    picker = mo.ui.dropdown(_names[::-1], value=_names[-1], label="Sweep")
    clock = mo.ui.refresh(options=["1s", "3s", "10s", "60s"], default_interval="3s")
    page.heading("Sweep", "Running and finished trials, and the front so far.", picker, clock)
    return clock, picker


@app.cell
def _(mo):
    get_sweep, set_sweep = mo.state(None)
    get_chosen, set_chosen = mo.state([])
    memory = {}  # the chosen trials, which stay chosen when the front is drawn again
    return get_chosen, get_sweep, memory, set_chosen, set_sweep


@app.cell
def _(errors, clock, get_sweep, load_sweep, memory, mo, page, picker, set_chosen, set_sweep):
    _tick = clock.value
    _shown = get_sweep()
    try:
        _now = load_sweep(picker.value, runs=False)
    except (errors.InputError, errors.StorageError) as _error:
        mo.stop(True, page.message(str(_error)))
    if _shown is None or _shown.name != _now.name:
        memory.clear()
        set_chosen([])
        set_sweep(_now)
    elif (_shown.state, _shown.trials) != (
        _now.state,
        _now.trials,
    ):  # unchanged figures are not drawn
        set_sweep(_now)
    return


@app.cell
def _(get_sweep, mo, page, dashboard_figures):
    mo.stop(get_sweep() is None)
    sweep = get_sweep()
    page.tiles(dashboard_figures.summary(sweep))
    return (sweep,)


@app.cell
def _(memory, page, dashboard_figures, plots, set_chosen, sweep):
    _front = dashboard_figures.front_panel([sweep], memory.get("chosen", []))

    def _choose(points):
        memory["chosen"] = dashboard_figures.picked(_front, points)
        set_chosen(memory["chosen"])

    front = page.plot(_front, _choose)
    page.columns(
        page.part("Front", page.HOW_TO_CHOOSE, front),
        page.part(
            "Hypervolume",
            "The volume that the front dominates, over complete trials.",
            page.plot(dashboard_figures.on_page(plots.course_figure([sweep]))),
        ),
        kind="wide-left",
    )
    return (front,)


@app.cell
def _(get_chosen, load_sweep, page, dashboard_figures, sweep):
    # Loaded here with the runs, so that the front need not wait some seconds for MLflow.
    _chosen = get_chosen()
    _rows = dashboard_figures.trials_table([load_sweep(sweep.name)], _chosen, ui=page.mlflow_ui())
    table = page.table(_rows)
    page.trials(_rows, table, chosen=bool(_chosen))
    return (table,)


if __name__ == "__main__":
    app.run()
