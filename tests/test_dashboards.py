"""The dashboards in a real browser, over small sweeps of networks that were really trained."""

import contextlib
import dataclasses
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from playwright.sync_api import TimeoutError as NothingYet
from playwright.sync_api import expect

import dashboards
from rsas import data
from rsas.analysis import front
from rsas.errors import InputError
from rsas.load import load_network, load_sweep, sweep_names
from rsas.records import trial_id
from rsas.sweep.experiment import load_experiment
from rsas.sweep.files.trial_dir import TrialDir, read_model, write_model
from rsas.sweep.files.workspace import Workspace
from rsas.sweep.mirror import tracker_of
from rsas.trainer import Trainer
from tests import made as made_by_hand
from tests.resources import RSAS
from tests.servers import free_port

pytestmark = pytest.mark.resource

ROOT = Path(__file__).parents[1]
CHROMIUM = shutil.which("chromium")
SPARSITIES = (0.5, 0.7, 0.9, 0.97)
UI = "http://127.0.0.1:5009"
PATIENCE = 90_000  # milliseconds
ATTEMPTS = 3


@dataclasses.dataclass
class Made:
    """A sweep made by hand, as the driver would make it."""

    experiment: object
    folder: object
    study: object

    def train(self, epochs=3):
        """The next trial, from beginning to end."""
        number = self.study.begin()
        name = trial_id(number)
        trainer = Trainer(
            self.study.config(number).replace(epochs=epochs, update_interval=10),
            data.load("digits"),
        )
        while trainer.epoch < epochs:
            trainer.run_epoch()
        made_by_hand.train(self.folder, number, trainer.history)
        write_model(self.folder.models, name, trainer.final_state())
        self.study.complete(number, trainer.history[-1], 0.3)
        TrialDir(self.folder.trials / name).set_record(self.study.to_dict(number))
        for each in self.folder.models.names():  # as the retention does
            if each not in {t.trial_id for t in self.front()}:
                self.folder.models.delete(each)
        return name

    def front(self):
        return front(self.study.trials(self.folder.objectives), self.folder.objectives)


def make(workspace, name, sparsities, asked):
    experiment, source = load_experiment(str(ROOT / "experiments" / "digits_quickstart.py"))
    budget = dataclasses.replace(experiment.budget, trials=asked)
    experiment = dataclasses.replace(experiment, budget=budget, sampler="random")
    folder, study = made_by_hand.make(workspace.path, name, experiment, source)
    study.enqueue([{"sparsity": each, "measure_lr": 0.3} for each in sparsities])
    return Made(experiment, folder, study)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return Workspace(tmp_path_factory.mktemp("workspace"))


@pytest.fixture(scope="module")
def made(workspace):
    """Two sweeps; the second, which is chosen first, is asked for one trial more than it has."""
    for name, sparsities in (("first", SPARSITIES[:2]), ("second", SPARSITIES)):
        sweep = make(workspace, name, sparsities, asked=len(sparsities) + 1)
        for _ in sparsities:
            sweep.train()
        tracker_of(sweep.folder, sweep.study, say=print).close("interrupted")
    return sweep


def wait_for(url, process):
    """Until the server answers."""
    until = time.monotonic() + PATIENCE / 1000
    while time.monotonic() < until and process.poll() is None:
        with contextlib.suppress(urllib.error.URLError):
            assert urllib.request.urlopen(url, timeout=10).status == 200
            return
        time.sleep(0.1)
    raise AssertionError("the server does not answer")


@contextlib.contextmanager
def served(workspace, *arguments):
    """URL of the dashboards with the token; they end in order on Ctrl-C."""
    command = [*RSAS, "dashboard", *arguments, "--port", str(free_port()), "--ui", UI]
    process = subprocess.Popen(
        [*command, "--workspace", str(workspace.path)], stdout=subprocess.PIPE, text=True
    )
    try:
        url = next(w for w in process.stdout.readline().split() if w.startswith("http"))
        wait_for(url, process)
        yield url
        process.send_signal(signal.SIGINT)
        assert process.wait(120) == 0
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def url(workspace, made):
    with served(workspace) as url:
        yield url


@pytest.fixture
def opened(browser, url):
    """Opens one of the pages; at the end nothing of it may have gone wrong or asked others."""
    faults = []
    context = browser.new_context(viewport={"width": 1400, "height": 1400})
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    page.on("console", lambda told: told.type == "error" and faults.append(told.text))
    page.on("pageerror", lambda error: faults.append(str(error)))
    local = (url.partition("?")[0], "data:", "blob:")
    page.on("request", lambda each: each.url.startswith(local) or faults.append(each.url))

    def go(name):
        page.goto(url)  # the token becomes a cookie
        page.goto(f"{url.partition('?')[0]}/?file={name}.py")
        page.wait_for_selector(".js-plotly-plot .scatterlayer .point")
        return page

    yield go
    assert faults == []
    context.close()


def points(page):
    """Of the first plot, the front: a point a trial, and stars at the knees."""
    return page.locator(".js-plotly-plot").first.locator(".scatterlayer .point")


def click_member(page, told):
    """Click the sparsest member of the front until a text appears.

    Plotly takes clicks on what is hovered; on a busy machine one gets lost while it draws.
    """
    for _ in range(ATTEMPTS):
        box = max((each.bounding_box() for each in points(page).all()), key=lambda box: box["x"])
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        page.mouse.move(x - 1, y)
        page.mouse.move(x, y)
        page.wait_for_selector(".hovertext")
        page.mouse.down()
        page.mouse.up()
        with contextlib.suppress(NothingYet):
            page.get_by_text(told).wait_for(timeout=PATIENCE / ATTEMPTS)
            return
        page.mouse.move(0, 0)
    raise AssertionError(f"no {told!r}")


def table(page):
    """Texts of the cells of the table of trials, a list a row."""
    rows = page.locator("table:has(th:has-text('trial')) tbody tr").all()
    return [row.locator("td").all_inner_texts() for row in rows]


def run_of(workspace, trial):
    """The run of a trial, as MLflow's own client finds it."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{workspace.path / 'mlflow.db'}")
    ids = [experiment.experiment_id for experiment in client.search_experiments()]
    told = f"tags.`rsas.sweep` = 'second' AND tags.`rsas.trial_id` = '{trial}'"
    (run,) = client.search_runs(ids, told)
    return run.info.run_id


def test_sweep_selects_by_click_and_by_box(opened, workspace, made):
    page = opened("sweep")
    page.get_by_text("All 4, the front first.").wait_for()
    expect(points(page)).to_have_count(5)
    assert {row[0] for row in table(page)} == {"t0000", "t0001", "t0002", "t0003"}
    tiles = page.locator(".rsas-tile").all_inner_texts()
    assert any("interrupted" in tile and "4 of 5" in tile for tile in tiles)

    sparsest = made.front()[-1].trial_id
    click_member(page, "The 1 that you chose.")
    assert [row[0] for row in table(page)] == [sparsest]
    link = page.locator("a.rsas-run").get_attribute("href")
    assert link == f"{UI}/#/runs/{run_of(workspace, sparsest)}"

    area = page.locator(".js-plotly-plot .nsewdrag").first.bounding_box()
    page.mouse.dblclick(area["x"] + 3, area["y"] + area["height"] / 2)
    page.get_by_text("All 4, the front first.").wait_for()
    page.mouse.move(area["x"] + 2, area["y"] + 2)
    page.mouse.down()
    for share in (0.5, 0.995):
        page.mouse.move(area["x"] + share * area["width"], area["y"] + share * area["height"])
    page.mouse.up()
    page.get_by_text("The 4 that you chose.").wait_for()
    expect(page.locator("a.rsas-run")).to_have_count(4)


def test_compare_filters_its_table(opened, made):
    page = opened("compare")
    page.get_by_text("All 6, the front first.").wait_for()
    expect(points(page)).to_have_count(8)
    assert {row[0] for row in table(page)} == {"first", "second"}
    volumes = page.locator("table.rsas-table").first.locator("tbody tr").all_inner_texts()
    assert {row.split()[0] for row in volumes} == {"first", "second"}
    click_member(page, "The 1 that you chose.")
    assert len(table(page)) == 1


def test_network_shows_the_trial_that_is_clicked(opened, made, workspace):
    page = opened("network")
    sweep = load_sweep("second", workspace=workspace.path, runs=False)
    sparsest = made.front()[-1]
    click_member(page, f"Trial {sparsest.trial_id}")
    shown = page.locator("table.rsas-table").first.inner_text()
    assert f"{sparsest.objectives['sparsity']:.4g}" in shown
    assert sparsest.trial_id in sweep.models
    for title in (
        "Mask of fc1",
        "Mask of fc2",
        "Inputs of fc1 in use",
        "Measure values of fc1",
    ):
        page.get_by_text(title, exact=True).wait_for()
    drawn = page.locator(".js-plotly-plot .heatmaplayer image")
    expect(drawn).to_have_count(3)


def test_a_finished_trial_appears_while_the_sweep_runs(opened, made, workspace):
    """Last of the pages: the sweep has a trial more afterwards."""
    with made.folder.locked():
        page = opened("sweep")
        page.locator(".rsas-tile", has_text="running").first.wait_for()
        page.get_by_text("All 4, the front first.").wait_for()
        made.study.enqueue([{"sparsity": 0.3, "measure_lr": 0.3}])
        name = made.train()
        page.get_by_text("All 5, the front first.").wait_for()
        assert name in [row[0] for row in table(page)]
        expect(points(page)).to_have_count(6)


def test_networks_are_read_with_their_measure_values(made, workspace):
    sweep = load_sweep("second", workspace=workspace.path, runs=False)
    kept = made.front()[0].trial_id
    network = load_network(sweep, kept)
    state = read_model(made.folder.models, kept)
    for read, written in ((network.masks, "masks"), (network.measures, "measures")):
        assert set(read) == {"fc1", "fc2"}
        for layer, values in read.items():
            assert values.tolist() == state[written][layer].tolist()
    assert network.input_shape == (1, 8, 8)

    for name in ("config", "input_shape", "masks", "measures"):
        rest = {key: value for key, value in state.items() if key != name}
        write_model(made.folder.models, f"without-{name}", rest)
    (workspace.path / "second" / "models" / "t0901").mkdir()
    (workspace.path / "second" / "models" / "t0901" / "model.pt").write_bytes(b"damaged")
    sweep = load_sweep("second", workspace=workspace.path, runs=False)
    assert load_network(sweep, "t0800") is None
    for name in ("config", "input_shape", "masks", "measures"):
        told = f"model of trial 'without-{name}': cannot be read .KeyError: '{name}'"
        with pytest.raises(InputError, match=told):
            load_network(sweep, f"without-{name}")
    with pytest.raises(InputError, match="model of trial 't0901': cannot be read"):
        load_network(sweep, "t0901")


def test_sweeps_are_listed_by_the_time_they_were_begun(made, workspace, tmp_path):
    assert sweep_names(workspace.path) == ["first", "second"]
    assert sweep_names(tmp_path / "nowhere") == []


def test_one_page_alone_needs_the_token(workspace, made):
    with (
        served(workspace, "network") as url,
        pytest.raises(urllib.error.HTTPError, match="401"),
    ):
        urllib.request.urlopen(url.partition("?")[0] + "/api/status", timeout=10)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["sweeps"], "dashboard 'sweeps': expected sweep, compare, network"),
        (["--port", "{taken}"], "cannot listen on 127.0.0.1:"),
        (["--workspace", __file__], "workspace"),
    ],
)
def test_what_cannot_be_served_is_told_in_a_line(arguments, told, workspace):
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        taken = server.getsockname()[1]
        arguments = [each.format(taken=taken) for each in arguments]
        done = subprocess.run([*RSAS, "dashboard", *arguments], capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and told in done.stderr


@pytest.mark.parametrize("name", dashboards.NAMES)
def test_pages_are_what_marimo_expects(name):
    file = Path(dashboards.__file__).with_name(f"{name}.py")
    subprocess.run([sys.executable, "-m", "marimo", "check", "--strict", str(file)], check=True)
