"""What the Grafana dashboard and Prometheus's configuration query, against what there is."""

import itertools
import json
import re
from pathlib import Path

import pytest
import yaml
from prometheus_client import CollectorRegistry
from ray.dashboard.modules import reporter

from rsas.records import Objective
from rsas.sweep.follow.prometheus import SweepGauges

FOLDER = Path(__file__).parents[1] / "dashboards" / "grafana"
FUNCTIONS = {"sum", "by", "rate", "sweep", "label_values"}


@pytest.fixture(scope="module")
def board():
    return json.loads((FOLDER / "rsas.json").read_text())


def expressions(board):
    return [target["expr"] for panel in board["panels"] for target in panel.get("targets", [])]


def names_in(expression):
    """Names of metrics: without labels, durations and words of the language."""
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]", "", expression)
    return set(re.findall(r"[a-z_]+", bare)) - FUNCTIONS


def ours():
    """Metrics of rsas with their labels, of a registry as a sweep has it."""
    registry = CollectorRegistry()
    objectives = (Objective("sparsity", "max", worst=0.0),)
    metrics = SweepGauges("s", asked=1, objectives=objectives, trials=[], slots=lambda: 1)
    registry.register(metrics)
    samples = [sample for family in registry.collect() for sample in family.samples]
    return {sample.name: set(sample.labels) for sample in samples}


def rays():
    """Names that Ray's nodes export; the module itself needs all of ``ray[default]``."""
    source = (Path(reporter.__path__[0]) / "reporter_agent.py").read_text()
    return {f"ray_{name}" for name in re.findall(r'Gauge\(\s*"(\w+)"', source)}


def test_every_metric_that_is_queried_exists(board):
    queried = set().union(*map(names_in, expressions(board)))
    assert {name for name in queried if name.startswith("rsas_")} == ours().keys()
    others = {name for name in queried if not name.startswith("rsas_")}
    assert others <= rays()
    assert {"ray_node_cpu_utilization", "ray_node_gpus_utilization", "ray_node_mem_used"} <= others


def test_every_label_that_is_queried_exists(board):
    for expression in expressions(board):
        for name, selector in re.findall(r"(rsas_\w+)(\{[^}]*\})?", expression):
            assert set(re.findall(r"(\w+)=~?", selector)) <= ours()[name]
            assert "$sweep" in selector, "a panel follows the variable"
    targets = [target for panel in board["panels"] for target in panel.get("targets", [])]
    for target in targets:
        if "rsas_" in target["expr"]:
            assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= {"sweep", "state"}


def test_variables_are_of_metrics_that_exist(board):
    source, sweep = board["templating"]["list"]
    assert (source["name"], source["type"]) == ("datasource", "datasource")
    assert source["query"] == "prometheus"
    name, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", sweep["query"]["query"]).groups()
    assert sweep["name"] == "sweep"
    assert label in ours()[name]
    for panel in board["panels"]:
        for part in [panel, *panel["targets"]] if panel["type"] != "row" else []:
            assert part["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


def test_panels_have_ids_of_their_own_and_do_not_overlap(board):
    panels = board["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = {panel["id"]: set(area(**panel["gridPos"])) for panel in panels}
    for one, other in itertools.combinations(cells.values(), 2):
        assert not one & other
    assert all(0 <= x < 24 for x, _ in set().union(*cells.values()))


def area(x, y, w, h):
    return itertools.product(range(x, x + w), range(y, y + h))


def test_prometheus_scrapes_rsas_and_ray():
    read = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    jobs = {job["job_name"]: job for job in read["scrape_configs"]}
    assert jobs.keys() == {"rsas", "ray"}
    (static,) = jobs["rsas"]["static_configs"]
    (target,) = static["targets"]
    assert re.fullmatch(r"127\.0\.0\.1:\d+", target)
    port = target.rpartition(":")[2]
    assert f"--metrics-port {port}" in (FOLDER / "README.md").read_text()
    (found,) = jobs["ray"]["file_sd_configs"]
    from ray._private.ray_constants import PROMETHEUS_SERVICE_DISCOVERY_FILE

    assert found["files"] == [f"/tmp/ray/{PROMETHEUS_SERVICE_DISCOVERY_FILE}"]
