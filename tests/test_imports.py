"""Who imports whom, and what is loaded when."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# What each part of rsas may import of rsas, itself included; cli may import all.
ALLOWED = {
    "rsas.redact": set(),
    "rsas.errors": {"rsas.redact"},
    "rsas.fields": {"rsas.errors"},
    "rsas.options": {"rsas.fields"},
    "rsas.config": {"rsas.errors", "rsas.fields", "rsas.options"},
    "rsas.userfile": {"rsas.errors"},
    "rsas.records": {"rsas.errors"},
    "rsas.uris": set(),
    "rsas.sparse": {"rsas.errors", "rsas.fields", "rsas.options", "rsas.sparse"},
    "rsas.compat": {"rsas.sparse"},
    "rsas.data": {"rsas.config", "rsas.errors"},
    "rsas.models": {"rsas.config", "rsas.errors", "rsas.userfile"},
    "rsas.small_dense": {"rsas", "rsas.config", "rsas.errors", "rsas.pruning", "rsas.sparse"},
    "rsas.pruning": {"rsas.config", "rsas.sparse"},
    "rsas.assembly": {"rsas", "rsas.config", "rsas.errors", "rsas.pruning", "rsas.userfile"},
    "rsas.trainer": {
        *("rsas", "rsas.config", "rsas.errors", "rsas.pruning", "rsas.sparse", "rsas.userfile"),
    },
    "rsas.replicates": {"rsas", "rsas.config", "rsas.trainer"},
    "rsas.repeats": {"rsas", "rsas.config", "rsas.errors", "rsas.pruning", "rsas.trainer"},
    "rsas.analysis": {"rsas.analysis", "rsas.errors", "rsas.records"},
    "rsas.tracking": {
        *("rsas.analysis", "rsas.errors", "rsas.records", "rsas.redact", "rsas.tracking"),
        "rsas.uris",
    },
    "rsas.export": {
        "rsas",
        "rsas.config",
        "rsas.errors",
        "rsas.export",
        "rsas.models",
        "rsas.pruning",
        "rsas.sparse",
        "rsas.trainer",
    },
    "rsas.search": {
        "rsas",
        "rsas.analysis",
        "rsas.config",
        "rsas.data",
        "rsas.errors",
        "rsas.export",
        "rsas.fields",
        "rsas.pruning",
        "rsas.records",
        "rsas.redact",
        "rsas.replicates",
        "rsas.search",
        "rsas.trainer",
        "rsas.uris",
        "rsas.userfile",
    },
}
# Beside what its part may: reads sweeps from wherever they are kept.
JOINERS = {"rsas.analysis.trials": {"rsas.search", "rsas.tracking"}}
# Only these may import these libraries.
KEPT_TO = {
    "ray": {"rsas.search"},
    "optuna": {"rsas.search", "rsas.analysis.importance"},
    "sqlalchemy": {"rsas.search", "rsas.tracking", "rsas.uris"},
    "pyarrow": {"rsas.search"},
    "prometheus_client": {"rsas.search"},
    "optuna_dashboard": {"rsas.search"},
    "mlflow": {"rsas.tracking"},
}


def part(module):
    """``rsas.sparse.masks`` -> ``rsas.sparse``."""
    return ".".join(module.split(".")[:2])


def modules():
    for path in sorted((ROOT / "rsas").rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        if name != "rsas" and part(name) != "rsas.cli":
            yield name, path


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield node.module


@pytest.mark.parametrize(("name", "path"), list(modules()))
def test_direction_of_imports(name, path):
    for module in imported(path):
        top = module.split(".")[0]
        if top == "rsas":
            allowed = ALLOWED[part(name)] | JOINERS.get(name, set())
            assert part(module) in allowed, f"{name} imports {module}"
        if top in KEPT_TO:
            assert {name, part(name)} & KEPT_TO[top], f"{name} imports {module}"


def test_few_join_search_and_tracking():
    users = [
        name
        for name, path in modules()
        if any(
            isinstance(node, ast.ImportFrom)
            and node.module == "rsas"
            and "tracking" in [alias.name for alias in node.names]
            for node in ast.walk(ast.parse(path.read_text()))
        )
    ]
    assert users == ["rsas.search.repair", "rsas.search.runner", "rsas.search.sweep"]


def loaded_by(statement):
    """Top-level names of the modules a fresh interpreter has loaded after the statement."""
    code = f"import sys; {statement}; print(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import rsas", {"ray", "optuna", "mlflow", "torch", "pandas"}),
        (
            "import rsas; rsas.train",
            {"ray", "optuna", "mlflow", "torchvision", "plotly", "moocore"},
        ),
        ("import rsas.compat", {"ray", "optuna", "mlflow", "pandas"}),
        ("import rsas.sparse", {"ray", "optuna", "mlflow", "pandas", "torchvision"}),
        (
            "import tests.benchmarks.step",
            {"ray", "optuna", "mlflow", "pandas", "sklearn", "scipy", "hypothesis"},
        ),
        (
            "import rsas.export",
            {"ray", "optuna", "mlflow", "pandas", "torchvision", "onnx", "onnxruntime", "scipy"},
        ),
        ("import rsas.analysis", {"ray", "optuna", "mlflow", "torch"}),
        ("import rsas.search.experiment", {"ray", "optuna", "mlflow", "torch"}),
        ("import rsas.search.workspace", {"ray", "optuna", "mlflow", "torch"}),
        ("import rsas.search.checkpoints", {"ray", "optuna", "mlflow", "torch", "pyarrow"}),
        ("import rsas.cli", {"ray", "optuna", "mlflow", "torch", "pandas", "numpy"}),
    ],
)
def test_what_an_import_does_not_load(statement, absent):
    assert not loaded_by(statement) & absent


BLOCK = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in {'ray', 'optuna', 'mlflow', 'plotly', 'moocore', 'typer', 'rich'}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
import rsas
run = rsas.train(rsas.TrainConfig(epochs=1, hidden=(20,)))
assert len(run.history) == 1
"""


def test_trains_with_only_torch_pandas_and_scikit_learn():
    subprocess.run([sys.executable, "-c", BLOCK], check=True)
