"""Who imports whom, and what is loaded when."""

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import rsas

ROOT = Path(__file__).parents[1]

# The parts of rsas from the ground up: each imports only those above its own line.
LAYERS = [
    "rsas.redact",
    "rsas.errors",
    "rsas.states",
    "rsas.uris",
    "rsas.fields",
    "rsas.options",
    "rsas.userfile",
    "rsas.columns",
    "rsas.records",
    "rsas.follower",
    "rsas.pareto",
    "rsas.config",
    "rsas.sparse",
    "rsas.compat",
    "rsas.data",
    "rsas.models",
    "rsas.pruning",
    "rsas.small_dense",
    "rsas.build",
    "rsas.lr",
    "rsas.averaging",
    "rsas.passes",
    "rsas.loop",
    "rsas.loop_trainer",
    "rsas.trainer",
    "rsas.multi_seed",
    "rsas.seed_study",
    "rsas.export",
    "rsas.analysis",
    "rsas.tracking",
    "rsas.sweep.experiment",
    "rsas.sweep.suggest",
    "rsas.sweep.study",
    "rsas.sweep.status",
    "rsas.sweep.files",
    "rsas.sweep.execute",
    "rsas.sweep.follow",
    "rsas.sweep.mirror",
    "rsas.sweep.audit",
    "rsas.sweep.launches",
    "rsas.sweep.provenance",
    "rsas.sweep.changes",
    "rsas.sweep.session",
    "rsas.sweep.commands",
    "rsas.load",
    "rsas.cli",
]
# Only these may import these libraries.
KEPT_TO = {
    "ray": {"rsas.sweep.execute", "rsas.sweep.session"},
    "ray.tune": {"rsas.sweep.execute.tune"},
    "optuna": {
        *("rsas.sweep.suggest", "rsas.sweep.study", "rsas.sweep.changes"),
        *("rsas.sweep.audit.rebuild", "rsas.sweep.audit.repair", "rsas.analysis.importance"),
    },
    "sqlalchemy": {"rsas.sweep.study", "rsas.tracking", "rsas.uris"},
    "pyarrow": {"rsas.sweep.files"},
    "prometheus_client": {"rsas.sweep"},
    "optuna_dashboard": {"rsas.sweep.follow"},
    "mlflow": {"rsas.tracking"},
}


def modules():
    """The modules of rsas by name, with their files."""
    for path in sorted((ROOT / "rsas").rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        if name != "rsas":  # the door, which imports each name on its first use
            yield name, path


MODULES = dict(modules())


def imported(path):
    """All modules that a file imports, also inside functions; names of the door by their home."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                if name in MODULES or node.module in ("ray", "optuna"):
                    yield name
                elif node.module == "rsas":
                    yield rsas._HOME[alias.name]
                else:
                    yield node.module


def is_in(module, part):
    return module == part or module.startswith(f"{part}.")


def layer(module):
    (found,) = (index for index, part in enumerate(LAYERS) if is_in(module, part))
    return found


@pytest.mark.parametrize("name", [name for name in MODULES if name != "rsas.sweep"])
def test_each_layer_imports_those_below(name):
    for module in imported(MODULES[name]):
        if module != "rsas" and is_in(module, "rsas"):
            assert layer(module) <= layer(name), f"{name} imports {module}"
        for library, users in KEPT_TO.items():
            if is_in(module, library):
                assert any(is_in(name, user) for user in users), f"{name} imports {module}"


def test_no_module_imports_itself_by_way_of_others():
    graph = {name: set(imported(path)) & MODULES.keys() - {name} for name, path in modules()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def loaded_by(statement):
    """Top-level names of the modules a fresh interpreter has loaded after the statement."""
    code = f"import sys; {statement}; print(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.slow
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
        ("import rsas.sweep.experiment", {"ray", "optuna", "mlflow", "torch"}),
        ("import rsas.sweep.files.workspace", {"ray", "optuna", "mlflow", "torch"}),
        ("import rsas.sweep.files.trial_dir", {"ray", "optuna", "mlflow", "torch", "pyarrow"}),
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


@pytest.mark.slow
def test_trains_with_only_torch_pandas_and_scikit_learn():
    subprocess.run([sys.executable, "-c", BLOCK], check=True)
