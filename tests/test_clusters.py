"""The files for clusters: Ray's own parsers take them, rsas takes the commands they lead to.

Scripts are run as they are, with ``ray``, ``rsas`` and Slurm's programs replaced by ones that note
how they were called. KubeRay ships no schema with Ray: the fields of its types that are used here
are written down below (KubeRay 1.6, ``ray.io/v1``), and any other field is an error.
"""

import contextlib
import json
import os
import re
import shlex
import signal
import subprocess
import time
from pathlib import Path

import jsonschema
import pytest
import typer
import yaml

from rsas.cli.app import app
from rsas.sweep.experiment import load_experiment

pytestmark = pytest.mark.filterwarnings("ignore:Using extra keyword arguments")  # in ray.serve

ROOT = Path(__file__).parents[1]
CLUSTERS = ROOT / "experiments" / "clusters"
FILES = sorted(path for path in CLUSTERS.iterdir() if path.is_file())
README = (CLUSTERS / "README.md").read_text()

NOTE = """#!/bin/sh
call=$(basename "$0")
for word; do call="$call\037$word"; done
printf '%s\\n' "$call\036${RAY_AUTH_MODE:-}\036${RAY_AUTH_TOKEN:-}\036${PGPASSWORD:-}" >>"$CALLS"
"""
FAKES = {
    "rsas": """
[ "$1" != status ] || exit "${STATUS:-2}"
if [ -n "${RUNS:-}" ]; then
  trap 'sleep 0.3; echo saved >>"$CALLS"; exit 130' TERM
  while :; do sleep 0.05; done
fi
exit "${CODE:-0}"
""",
    "ray": """
[ "$1" != symmetric-run ] || { while [ "$1" != -- ]; do shift; done; shift; "$@"; }
""",
    "srun": """
while [ "$1" != ray ]; do shift; done
"$@"
""",
    "scontrol": """
[ "$1" != show ] || printf 'node1\\nnode2\\n'
""",
    "squeue": """
echo "${STATE:-RUNNING}"
""",
}


class Machine:
    """Runs shell commands with the fakes first on the PATH."""

    def __init__(self, folder):
        self.folder, self.calls_file = folder, folder / "calls"
        programs = folder / "programs"
        programs.mkdir()
        for name, body in FAKES.items():
            (programs / name).write_text(NOTE + body)
            (programs / name).chmod(0o755)
        self.calls_file.touch()
        self.started = []
        self.environment = {
            "PATH": f"{programs}:/usr/local/bin:/usr/bin:/bin",
            "HOME": str(folder),
            "TMPDIR": str(folder),
            "CALLS": str(self.calls_file),
        }

    def start(self, command, cwd=ROOT, **environment):
        environment = {**self.environment, **environment}
        process = subprocess.Popen(command, cwd=cwd, env=environment, start_new_session=True)
        self.started.append(process)
        return process

    def run(self, command, cwd=ROOT, **environment):
        return self.start(command, cwd, **environment).wait(timeout=20)

    def notes(self):
        return self.calls_file.read_text().split("\n")[:-1]

    def calls(self, *words):
        """Calls that begin with these words."""
        found = [note.split("\036")[0].split("\037") for note in self.notes()]
        return [call for call in found if call[: len(words)] == list(words)]

    def environments(self, *words):
        """RAY_AUTH_MODE, RAY_AUTH_TOKEN and PGPASSWORD of these calls."""
        begin = "\037".join(words) + "\037"
        return [note.split("\036")[1:] for note in self.notes() if note.startswith(begin)]

    def wait_for(self, *words):
        deadline = time.monotonic() + 10
        while not self.calls(*words):
            assert time.monotonic() < deadline, f"no call of {words}: {self.notes()}"
            time.sleep(0.02)


@pytest.fixture
def machine(tmp_path):
    made = Machine(tmp_path)
    yield made
    for process in made.started:  # whatever a test that failed has left
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def parse(call):
    """The values of a call of rsas by its own command line, without running it."""
    command = typer.main.get_command(app).commands[call[1]]
    return command.make_context(call[1], list(call[2:])).params


def check_experiment(spec):
    load_experiment(str(ROOT / spec))


def check_launches(machine, status):
    """The values a sweep was launched with: rsas takes them, its experiment is there."""
    begun = [call for call in machine.calls("rsas") if call[1] != "status"]
    assert [call[1] for call in begun] == [{"2": "sweep", "0": "resume"}[status]]
    (call,) = begun
    values = parse(call)
    assert (values["name"], values["address"]) == ("resnet18", "auto")
    if call[1] == "sweep":
        check_experiment(values["file"])
    else:
        assert values["take_over"]  # of a job on a machine that is gone
    return values


# launch.sh


def launch(machine, *options, **environment):
    words = ["resnet18", "experiments/published.py:resnet18_cifar10", *options]
    environment = {"RSAS_WORKSPACE": "/shared/runs", **environment}
    return machine.start(["sh", CLUSTERS / "launch.sh", *words], **environment)


@pytest.mark.parametrize("status", ["2", "0"])
def test_launch_starts_a_sweep_or_goes_on_with_it(machine, status):
    assert launch(machine, "--set", "epochs=2", STATUS=status, CODE="1").wait() == 1
    assert [call[1] for call in machine.calls("rsas")] == [
        "status",
        {"2": "sweep", "0": "resume"}[status],
    ]
    assert parse(machine.calls("rsas", "status")[0])["workspace"] == Path("/shared/runs")
    values = check_launches(machine, status)
    assert values["workspace"] == Path("/shared/runs")
    assert values.get("assignments") == (["epochs=2"] if status == "2" else None)


def test_launch_does_nothing_where_the_workspace_cannot_be_read(machine):
    assert launch(machine, STATUS="1").wait() == 1
    assert len(machine.calls("rsas")) == 1


@pytest.mark.parametrize("words", [[], ["resnet18"]])
def test_launch_refuses_what_is_missing(machine, words):
    assert machine.run(["sh", CLUSTERS / "launch.sh", *words], RSAS_WORKSPACE="/shared/runs") == 2
    assert launch(machine, RSAS_WORKSPACE="").wait() == 2
    assert not machine.calls()


def test_launch_keeps_the_code_of_a_sweep(machine, tmp_path):
    here, kept = tmp_path / "here", tmp_path / "code"
    here.mkdir()
    words = ["sh", CLUSTERS / "launch.sh", "resnet18", "a.py"]
    for content in ("first", "second"):
        (here / "a.py").write_text(content)
        machine.run(words, cwd=here, RSAS_WORKSPACE="w", RSAS_CODE=str(kept))
    assert (kept / "resnet18" / "a.py").read_text() == "first"
    assert os.listdir(kept) == ["resnet18"]


def test_stop_waits_until_the_sweep_has_saved(machine):
    running = launch(machine, RUNS="1")
    machine.wait_for("rsas", "sweep")
    stop = ["sh", CLUSTERS / "launch.sh", "--stop"]
    assert machine.run([*stop, "another"]) == 0
    assert running.poll() is None and "saved" not in machine.notes()
    assert machine.run([*stop, "resnet18"]) == 0
    assert machine.notes()[-1] == "saved" and running.wait() == 130
    assert machine.run([*stop, "resnet18"]) == 0  # nothing to stop any more


# Kubernetes


def _object(required, **properties):
    return {
        "type": "object",
        "required": required.split(),
        "properties": properties,
        "additionalProperties": False,
    }


def _list(of, least=1):
    return {"type": "array", "items": of, "minItems": least}


STRING, BOOLEAN = {"type": "string", "minLength": 1}, {"type": "boolean"}
COUNT = {"type": "integer", "minimum": 0}
STRINGS = {"type": "object", "additionalProperties": {"type": "string"}}  # "0", not 0
QUANTITY = {"type": ["string", "integer"], "pattern": r"^\d+(m|Mi|Gi|Ti)?$"}
QUANTITIES = {"type": "object", "required": ["cpu", "memory"], "additionalProperties": QUANTITY}
METADATA = _object("name", name={"type": "string", "pattern": "^[a-z]([-a-z0-9]{0,45}[a-z0-9])?$"})
CONTAINER = _object(
    "name image resources volumeMounts envFrom",
    name=STRING,
    image=STRING,
    env=_list(_object("name value", name=STRING, value=STRING)),
    envFrom=_list(_object("secretRef", secretRef=METADATA)),
    lifecycle=_object(
        "preStop", preStop=_object("exec", exec=_object("command", command=_list(STRING)))
    ),
    ports=_list(_object("containerPort name", containerPort=COUNT, name=STRING)),
    resources=_object("requests limits", requests=QUANTITIES, limits=QUANTITIES),
    volumeMounts=_list(_object("mountPath name", mountPath=STRING, name=STRING)),
)
POD = _object(
    "containers volumes terminationGracePeriodSeconds",
    containers={**_list(CONTAINER), "maxItems": 1},
    terminationGracePeriodSeconds=COUNT,
    tolerations=_list(
        _object(
            "key operator effect",
            key=STRING,
            operator={"const": "Exists"},
            effect={"enum": ["NoSchedule", "NoExecute", "PreferNoSchedule"]},
        )
    ),
    volumes=_list(
        _object(
            "name persistentVolumeClaim",
            name=STRING,
            persistentVolumeClaim=_object("claimName", claimName=STRING),
        )
    ),
)
HEAD = _object(
    "rayStartParams template", rayStartParams=STRINGS, template=_object("spec", spec=POD)
)
WORKERS = _object(
    "groupName replicas minReplicas maxReplicas rayStartParams template",
    groupName=STRING,
    replicas=COUNT,
    minReplicas=COUNT,
    maxReplicas=COUNT,
    rayStartParams=STRINGS,
    template=_object("spec", spec=POD),
)
RAYJOB = _object(
    "apiVersion kind metadata spec",
    apiVersion={"const": "ray.io/v1"},
    kind={"const": "RayJob"},
    metadata=METADATA,
    spec=_object(
        "entrypoint backoffLimit shutdownAfterJobFinishes rayClusterSpec",
        entrypoint=STRING,
        backoffLimit={"type": "integer", "minimum": 1},
        shutdownAfterJobFinishes={"const": True},
        ttlSecondsAfterFinished=COUNT,
        rayClusterSpec=_object(
            "rayVersion authOptions headGroupSpec workerGroupSpecs",
            rayVersion=STRING,
            authOptions=_object("mode", mode={"const": "token"}),
            enableInTreeAutoscaling=BOOLEAN,
            autoscalerOptions=_object("idleTimeoutSeconds", idleTimeoutSeconds=COUNT),
            headGroupSpec=HEAD,
            workerGroupSpecs=_list(WORKERS),
        ),
    ),
)
CLAIM = _object(
    "apiVersion kind metadata spec",
    apiVersion={"const": "v1"},
    kind={"const": "PersistentVolumeClaim"},
    metadata=METADATA,
    spec=_object(
        "accessModes resources",
        accessModes={"const": ["ReadWriteMany"]},
        resources=_object("requests", requests=_object("storage", storage=QUANTITY)),
    ),
)


@pytest.fixture
def rayjob():
    return yaml.safe_load((CLUSTERS / "rayjob.yaml").read_text())


@pytest.fixture
def pods(rayjob):
    """The head's and the workers'."""
    cluster = rayjob["spec"]["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    return [group["template"]["spec"] for group in groups]


def test_rayjob_has_the_fields_of_kuberay(rayjob):
    jsonschema.validate(rayjob, RAYJOB)


def test_rayjob_runs_the_version_of_ray_that_is_proven(rayjob):
    pinned = re.findall(r"(?m)^ray==([\d.]+)", (ROOT / ".ci" / "constraints.txt").read_text())
    assert [rayjob["spec"]["rayClusterSpec"]["rayVersion"]] == pinned


def test_rayjob_shares_a_claim_that_all_pods_can_write(pods):
    claim = yaml.safe_load((CLUSTERS / "shared.yaml").read_text())
    jsonschema.validate(claim, CLAIM)
    for pod in pods:
        (volume,), (container,) = pod["volumes"], pod["containers"]
        assert volume["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
        assert container["volumeMounts"] == [{"mountPath": "/shared", "name": volume["name"]}]


def test_rayjob_gives_all_pods_the_same_image_and_secrets(pods):
    head, *workers = (pod["containers"][0] for pod in pods)
    for worker in workers:
        assert worker["image"] == head["image"] and worker["envFrom"] == head["envFrom"]
    assert f"-t {head['image']} " in README
    assert head["envFrom"][0]["secretRef"]["name"] in README


def test_rayjob_keeps_the_head_off_spot_nodes_and_off_trials(rayjob, pods):
    head, *workers = pods
    cluster = rayjob["spec"]["rayClusterSpec"]
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert "tolerations" not in head
    for worker in workers:
        keys = " ".join(toleration["key"] for toleration in worker["tolerations"])
        assert "spot" in keys and "nvidia.com/gpu" in keys
    for group in cluster["workerGroupSpecs"]:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"] > 0


def test_rayjob_gives_pods_the_time_to_end(pods):
    from ray._private.ray_constants import RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S as DRAIN

    (head,) = pods[0]["containers"]
    variables = {variable["name"]: variable["value"] for variable in head["env"]}
    wait = int(variables["RAY_JOB_STOP_WAIT_TIME_S"])
    assert 60 <= wait < pods[0]["terminationGracePeriodSeconds"]
    assert all(pod["terminationGracePeriodSeconds"] > DRAIN for pod in pods)


def driver(machine, rayjob, pods):
    """The command of the driver, as KubeRay's submitter and Ray's job supervisor pass it on."""
    machine.run(["bash", "-c", f"ray job submit --no-wait -- {rayjob['spec']['entrypoint']} ;"])
    entrypoint = submitted(machine.calls("ray", "job", "submit")[0])["entrypoint"]
    variables = {v["name"]: v["value"] for v in pods[0]["containers"][0]["env"]}
    return ["sh", "-c", shlex.join(entrypoint)], variables


@pytest.mark.parametrize("status", ["2", "0"])
def test_rayjob_leads_to_a_sweep(machine, rayjob, pods, status):
    command, variables = driver(machine, rayjob, pods)
    assert machine.run(command, STATUS=status, **variables) == 0
    values = check_launches(machine, status)
    assert values["workspace"].is_relative_to("/shared")
    if status == "2":
        assert all(str(values[name]).startswith("/shared/") for name in ("storage", "data_dir"))
        (group,) = rayjob["spec"]["rayClusterSpec"]["workerGroupSpecs"]
        limits = pods[1]["containers"][0]["resources"]["limits"]
        fit = int(limits["cpu"]) // values["cpus"]
        assert fit == limits["nvidia.com/gpu"] // values["gpus"]
        assert values["concurrency"] == fit * group["maxReplicas"]


def test_rayjob_stops_its_sweep_before_its_head(machine, rayjob, pods):
    command, variables = driver(machine, rayjob, pods)
    running = machine.start(command, RUNS="1", **variables)
    machine.wait_for("rsas", "sweep")
    hook = pods[0]["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    assert machine.run(hook) == 0
    assert machine.notes()[-1] == "saved" and running.wait() == 130


# ray up


@pytest.fixture
def ray_up():
    return yaml.safe_load((CLUSTERS / "ray-up.yaml").read_text())


def test_ray_up_is_valid_for_ray(ray_up):
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(ray_up))


def test_ray_up_has_its_head_on_demand_and_its_workers_on_spot(ray_up):
    nodes = dict(ray_up["available_node_types"])
    head = nodes.pop(ray_up["head_node_type"])
    assert "InstanceMarketOptions" not in head["node_config"] and head["resources"] == {"CPU": 0}
    for node in nodes.values():
        assert node["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
        assert node["resources"]["GPU"] > 0
        assert 0 < node["max_workers"] <= ray_up["max_workers"]


def test_ray_up_takes_the_project_and_the_token_along(ray_up):
    from ray._private.authentication import authentication_token_setup

    token = authentication_token_setup._get_default_token_path()
    mounts = {Path(there).expanduser(): here for there, here in ray_up["file_mounts"].items()}
    assert mounts[token] == f"~/{token.relative_to(Path.home())}"
    project = Path("~/rsas").expanduser()
    for there, here in mounts.items():
        if there.is_relative_to(project):
            assert (ROOT / here).exists() and there.relative_to(project) == Path(here)
    settings = (ROOT / "pyproject.toml").read_text()
    needed = ["pyproject.toml", ".ci", "experiments", "rsas", "search_spaces"]
    needed += re.findall(r'^readme = "(.+)"', settings, re.MULTILINE)
    needed += re.findall(r'^license-files = \["(.+)"\]', settings, re.MULTILINE)
    assert {*needed} <= {*mounts.values()}


def test_ray_up_installs_extras_that_exist(ray_up):
    import tomllib

    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    texts = " ".join(ray_up["setup_commands"]) + README
    (asked,) = set(re.findall(r'--editable "\.\[(\w+)\]"', texts))
    assert asked in extras["optional-dependencies"]


def test_ray_up_commands_are_shell(ray_up):
    for name, commands in ray_up.items():
        for command in commands if name.endswith("_commands") else []:
            subprocess.run(["bash", "-n", "-c", command], check=True)


def test_ray_up_starts_ray_with_token_and_secrets(machine, ray_up):
    home = machine.folder
    (home / "venv" / "bin").mkdir(parents=True)
    (home / "venv" / "bin" / "activate").touch()
    (home / "rsas.env").write_text("PGPASSWORD=of-the-database\n")
    for kind in ("head", "worker"):
        for command in ray_up[f"{kind}_start_ray_commands"]:
            assert machine.run(["bash", "-c", command], RAY_HEAD_IP="10.0.0.1") == 0
    head, worker = (started(call) for call in machine.calls("ray", "start"))
    assert head["head"] and head["num_cpus"] == 0 and head["autoscaling_config"]
    assert worker["address"] == f"10.0.0.1:{head['port']}" and not worker["head"]
    assert machine.environments("ray", "start") == [["token", "", "of-the-database"]] * 2


def started(call):
    """The values of a call of ``ray start``."""
    from ray.scripts.scripts import start

    return start.make_context("start", list(call[2:])).params


# submit.sh and the README


def submitted(call):
    """The values of a call of ``ray job submit``."""
    from ray.dashboard.modules.job.cli import submit

    return submit.make_context("submit", list(call[3:])).params


def shell_blocks():
    return re.findall(r"```sh\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("status", ["2", "0"])
def test_submit_leads_to_a_sweep(machine, ray_up, status, tmp_path):
    (line,) = (block for block in shell_blocks() if "submit.sh" in block)
    assert machine.run(["sh", "-c", line]) == 0
    (call,) = machine.calls("ray")
    values = submitted(call)
    assert machine.environments("ray") == [["token", "", ""]]
    assert values["address"] == "http://127.0.0.1:8265" and values["no_wait"]
    assert (ROOT / values["working_dir"] / "pyproject.toml").samefile(ROOT / "pyproject.toml")
    environment = json.loads(values["runtime_env_json"])["env_vars"]
    assert int(environment["RAY_JOB_STOP_WAIT_TIME_S"]) >= 60
    assert environment.pop("RSAS_CODE").startswith("/shared/")

    assert (
        machine.run(["sh", "-c", shlex.join(values["entrypoint"])], STATUS=status, **environment)
        == 0
    )
    found = check_launches(machine, status)
    assert found["workspace"].is_relative_to("/shared")
    if status == "2":
        (node,) = (n for n in ray_up["available_node_types"].values() if "GPU" in n["resources"])
        fit = node["resources"]["CPU"] // found["cpus"]
        assert fit == node["resources"]["GPU"] // found["gpus"]
        assert found["concurrency"] == fit * node["max_workers"]


def test_submit_can_be_told_another_address_and_mode(machine):
    words = [CLUSTERS / "submit.sh", "resnet18", "experiments/published.py:resnet18_cifar10"]
    other = {"RAY_API_SERVER_ADDRESS": "http://10.0.0.1:8265", "RAY_AUTH_MODE": "disabled"}
    machine.run(words, **other)
    assert submitted(machine.calls("ray")[0])["address"] == other["RAY_API_SERVER_ADDRESS"]
    assert machine.environments("ray") == [["disabled", "", ""]]


def test_runtime_environment_is_valid_for_ray():
    from ray.runtime_env import RuntimeEnv

    (text,) = re.findall(r"--runtime-env-json '(.*?)'", (CLUSTERS / "submit.sh").read_text())
    assert RuntimeEnv(**json.loads(text))["env_vars"]


def test_readme_shows_commands_that_are_valid():
    commands = [line for block in shell_blocks() for line in block.splitlines()]
    lines = [shlex.split(line) for line in commands if line.startswith("rsas ")]
    assert [line[1] for line in lines] == ["doctor"]
    for line in lines:
        check_experiment(parse(line)["file"])
    for block in shell_blocks():
        subprocess.run(["bash", "-n", "-c", block], check=True)


def test_readme_names_all_files_and_no_others():
    linked = re.findall(r"\]\(([^)]+)\)", README)
    assert {*linked} == {path.name for path in FILES} - {"README.md"}
    for path in FILES:
        for name in re.findall(r"(?<![\w/.])experiments/[\w./-]+\w", path.read_text()):
            assert (ROOT / name).exists(), f"{path.name}: {name}"


# Slurm


@pytest.fixture
def slurm(machine, tmp_path):
    """Starts the batch script as Slurm would, in a project of its own."""
    project = tmp_path / "project"
    (project / ".venv" / "bin").mkdir(parents=True)
    (project / ".venv" / "bin" / "activate").touch()
    (project / "experiments").symlink_to(ROOT / "experiments")

    def begin(**environment):
        given = {
            "SLURM_SUBMIT_DIR": str(project),
            "SLURM_JOB_ID": "123456",
            "SLURM_JOB_NODELIST": "node[1-2]",
            "SLURM_JOB_NUM_NODES": "2",
            "SLURM_CPUS_PER_TASK": "32",
            "SLURM_GPUS_ON_NODE": "4",
        }
        return machine.start(["bash", CLUSTERS / "slurm.sh"], "/", **given, **environment)

    return begin


def directives():
    """Options of sbatch, which reads no more of them after the first command."""
    text = (CLUSTERS / "slurm.sh").read_text()
    head = re.match(r"(#.*\n)+", text)
    found = re.findall(r"(?m)^#SBATCH --([\w-]+)(?:=(\S+))?$", head.group())
    assert len(found) == text.count("#SBATCH")
    return dict(found)


def test_slurm_asks_for_a_warning_and_to_be_requeued():
    options = directives()
    assert re.fullmatch(r"B:TERM@\d+", options.pop("signal"))
    assert (options.pop("requeue"), options.pop("open-mode")) == ("", "append")
    assert options.pop("ntasks-per-node") == "1"  # symmetric-run starts one Ray a node
    assert {*options} == {
        *["job-name", "nodes", "cpus-per-task", "gpus-per-node", "exclusive", "time", "output"]
    }


@pytest.mark.parametrize("status", ["2", "0"])
def test_slurm_leads_to_a_sweep(machine, slurm, tmp_path, status):
    subprocess.run(["bash", "-n", CLUSTERS / "slurm.sh"], check=True)
    assert slurm(STATUS=status, CODE="3").wait(timeout=20) == 3
    values = check_launches(machine, status)
    assert values["workspace"] == tmp_path / "project" / "runs"
    assert not machine.calls("scontrol", "requeue")
    if status == "2":
        options = directives()
        fit = int(options["cpus-per-task"]) // values["cpus"]
        assert fit == int(options["gpus-per-node"]) // values["gpus"]


def test_slurm_starts_ray_as_ray_takes_it(machine, slurm):
    from ray.scripts.symmetric_run import curate_and_validate_ray_start_args, symmetric_run

    slurm().wait(timeout=20)
    (call,) = machine.calls("ray")
    words = call[2 : call.index("--")]
    values = symmetric_run.make_context("symmetric-run", list(words)).params
    assert values["min_nodes"] == 2
    host, port = values["address"].split(":")
    assert host == "node1" and 1024 < int(port) < 32768
    rest = curate_and_validate_ray_start_args(words)
    for kind in (["--head", f"--port={port}"], ["--address", values["address"], "--block"]):
        params = started(["ray", "start", *kind, *rest])
        assert (params["num_cpus"], params["num_gpus"]) == (32, 4)
    ((mode, token, _),) = machine.environments("ray")
    assert mode == "token" and re.fullmatch("[0-9a-f]{64}", token)


@pytest.mark.parametrize(("state", "requeued"), [("RUNNING", True), ("COMPLETING", False)])
def test_slurm_saves_before_its_time_is_up_and_queues_again(machine, slurm, state, requeued):
    batch = slurm(RUNS="1", STATE=state)
    machine.wait_for("rsas", "sweep")
    os.kill(batch.pid, signal.SIGTERM)
    assert batch.wait(timeout=20) == 0
    last = [note.split("\036")[0].split("\037") for note in machine.notes()]
    after = last[last.index(["saved"]) + 1 :]
    assert (["scontrol", "requeue", "123456"] in after) is requeued


# All of them


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_names_no_registry_and_no_place_of_ours(path):
    text = path.read_text()
    hosts = (
        r"\b(ghcr|docker|quay|gcr|k8s|pkg|amazonaws|azurecr|nvcr|pypi|pythonhosted|anaconda|conda)"
    )
    assert not re.search(hosts + r"[\w.-]*\.(io|com|org|dev|cloud)\b", text)
    for image in re.findall(r"(?m)(?:image:|^FROM) *(\S+)", text):
        assert "/" not in image
    known = ["shared", "dev", "proc", "bin", "tmp", "rsas"]
    for place in re.findall(r"(?<![\w.~*$}{\])/:-])/(\w+)", text):
        assert place in known, place


@pytest.mark.parametrize(
    "path", [p for p in FILES if p.suffix == ".sh"], ids=lambda path: path.name
)
def test_scripts_can_be_run(path):
    assert os.access(path, os.X_OK)
    shell = path.read_text().splitlines()[0].removeprefix("#!")
    subprocess.run([shell, "-n", path], check=True)
