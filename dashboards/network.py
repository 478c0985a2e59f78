# /// script
# [tool.marimo.display]
# theme = "system"
# [tool.marimo.opengraph]
# title = "Network"
# description = "One trial: its masks as pictures, its layers over the epochs, its measure values."
# ///
"""One trial: its masks as pictures, its layers over the epochs, its measure values."""

import marimo

__generated_with = "0.25.2"
app = marimo.App(
    width="medium", app_title="rsas: network", css_file="style.css", html_head_file="head.html"
)


@app.cell
def _():
    import marimo as mo

    from dashboards import page
    from rsas import errors
    from rsas.analysis import dashboard_figures, load_history, mask_figures
    from rsas.load import load_network, load_sweep, sweep_names

    return (
        errors,
        load_history,
        load_network,
        load_sweep,
        mo,
        mask_figures,
        page,
        dashboard_figures,
        sweep_names,
    )


@app.cell
def _(mo, page, sweep_names):
    _names = sweep_names()
    mo.stop(not _names, mo.vstack([page.heading("Network", ""), page.nothing()]))
    picker = mo.ui.dropdown(_names[::-1], value=_names[-1], label="Sweep")
    page.heading("Network", "The effects of pruning on one trial.", picker)
    return (picker,)


@app.cell
def _(errors, load_sweep, mo, page, dashboard_figures, picker):
    try:
        sweep = load_sweep(picker.value)
    except (errors.InputError, errors.StorageError) as _error:
        mo.stop(True, page.message(str(_error)))
    mo.stop(not sweep.front, page.message("No trial of this sweep is complete yet."))
    get_trial, set_trial = mo.state(dashboard_figures.first_choice(sweep))
    return get_trial, set_trial, sweep


@app.cell
def _(page, dashboard_figures, set_trial, sweep):
    _front = dashboard_figures.front_panel(
        [sweep], [(sweep.name, dashboard_figures.first_choice(sweep))]
    )

    def _choose(points):
        for _, _trial in dashboard_figures.picked(_front, points)[:1]:
            set_trial(_trial)

    front = page.plot(_front, _choose)
    return (front,)


@app.cell
def _(front, get_trial, mo, page, dashboard_figures, sweep):
    # A cell of its own, so that the front is not drawn again for each trial.
    trial = get_trial()
    _rows = dashboard_figures.trials_table([sweep], [(sweep.name, trial)], ui=page.mlflow_ui())
    page.columns(
        page.part("Front", "Click a trial to see its network.", front),
        page.part(
            f"Trial {trial}",
            "",
            mo.vstack([page.run_links(_rows), page.plain(dashboard_figures.as_column(_rows))]),
        ),
        kind="wide-left",
    )
    return (trial,)


@app.cell
def _(load_history, mask_figures, page, sweep, trial):
    _history = load_history(sweep, trials=[trial])
    page.columns(
        page.part(
            "Density by layer",
            "Share of weights that are on, after each epoch.",
            page.plot(mask_figures.curves_panel(_history, ["density"], "density")),
        ),
        page.part(
            "Churn",
            "Share of the weights that are on which were off an epoch before.",
            page.plot(mask_figures.curves_panel(_history, ["churn"], "churn")),
        ),
        page.part(
            "Loss",
            "Training and validation loss.",
            page.plot(mask_figures.curves_panel(_history, ["train_loss", "val_loss"], "loss")),
        ),
        kind="many",
    )
    return


@app.cell
def _(errors, load_network, mo, page, sweep, trial):
    try:
        network = load_network(sweep, trial)
    except (errors.InputError, errors.StorageError) as _error:
        mo.stop(True, page.message(str(_error)))
    mo.stop(
        network is None,
        page.message("This trial is not on the front, so its weights were not kept."),
    )
    mo.stop(not network.masks, page.message("This network has no masks: it was trained dense."))
    return (network,)


@app.cell
def _(network, mask_figures, page):
    _pixels = {
        name: counts
        for name, mask in network.masks.items()
        if (counts := mask_figures.inputs_in_use(mask, network.input_shape)) is not None
    }
    page.columns(
        *(
            page.part(
                f"Mask of {name}",
                f"{mask.mean():.1%} of {mask.size:,} weights are on; each output is a row.",
                page.plot(mask_figures.mask_panel(mask_figures.as_picture(mask), "share on")),
            )
            for name, mask in network.masks.items()
        ),
        *(
            page.part(
                f"Inputs of {name} in use",
                "Weights that are on, by pixel.",
                page.plot(mask_figures.mask_panel(counts, "weights", square=True)),
            )
            for name, counts in _pixels.items()
        ),
        kind="many",
    )
    return


@app.cell
def _(network, mask_figures, page):
    page.columns(
        page.part(
            "Layers",
            "Outputs that are cut off have no weight that is on.",
            page.plain(mask_figures.layers_table(network.masks)),
        ),
        kind="one",
    )
    return


@app.cell
def _(mo, network, mask_figures, page):
    mo.stop(
        not network.measures,
        page.message("The method of this trial has no measure values."),
    )
    page.columns(
        *(
            page.part(
                f"Measure values of {name}",
                "The value that the method learned for each weight.",
                page.plot(mask_figures.measure_panel(measure, network.masks[name])),
            )
            for name, measure in network.measures.items()
        ),
        kind="many",
    )
    return


if __name__ == "__main__":
    app.run()
