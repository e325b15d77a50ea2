"""Deployment files are kept true: Ray's own schema and parsing, EC2's and KubeRay's fields, the commands they call.

None of them is started here: there is no cloud, no Kubernetes and no container engine.
"""

from __future__ import annotations

import ast
import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import jsonschema
import pytest
import yaml

from jobs.cli import load_command

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
KUBERNETES = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())

# The fields of KubeRay's v1 API that every release from 1.5.1 on has (ray-operator/apis/ray/v1/*_types.go).
RAY_JOB_SPEC = {
    *("activeDeadlineSeconds", "backoffLimit", "rayClusterSpec", "submitterPodTemplate", "metadata", "clusterSelector"),
    *("submitterConfig", "managedBy", "entrypoint", "runtimeEnvYAML", "jobId", "submissionMode", "entrypointResources"),
    *("entrypointNumCpus", "entrypointNumGpus", "ttlSecondsAfterFinished", "shutdownAfterJobFinishes", "suspend"),
}
RAY_CLUSTER_SPEC = {
    *("suspend", "managedBy", "autoscalerOptions", "headServiceAnnotations", "enableInTreeAutoscaling", "authOptions"),
    *("gcsFaultToleranceOptions", "headGroupSpec", "rayVersion", "workerGroupSpecs"),
}
HEAD_GROUP = {"template", "headService", "enableIngress", "rayStartParams", "serviceType"}
WORKER_GROUP = {
    *("suspend", "groupName", "replicas", "minReplicas", "maxReplicas", "idleTimeoutSeconds", "rayStartParams"),
    *("template", "scaleStrategy", "numOfHosts"),
}
RAY_CRON_JOB_SPEC = {"schedule", "jobTemplate", "suspend"}


# The package


def test_what_lies_in_the_packages_is_installed_with_them():
    """An installation that is not editable has every SQL file, page, sample and checkpoint."""
    tool = PROJECT["tool"]["setuptools"]
    for package in ("jobs", "pipeline", "workers", "omnidrop"):
        assert f"{package}*" in tool["packages"]["find"]["include"]
        listed = {path for glob in tool["package-data"].get(package, ()) for path in (ROOT / package).glob(glob)}
        for path in (ROOT / package).rglob("*"):
            if path.suffix == ".py":
                assert path.with_name("__init__.py").exists() or path in listed, path
            elif path.is_file() and "__pycache__" not in path.parts:
                assert path in listed, path


# Ray's cluster launcher


@pytest.fixture(scope="module")
def launched():
    """The file as Ray's launcher sees it before it calls a cloud: defaults filled in, node types completed."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(yaml.safe_load((ROOT / "ray_cluster.yaml").read_text()))
    validate_config(config)
    return config


def test_the_cluster_file_fits_rays_own_schema():
    import ray.autoscaler

    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    given = yaml.safe_load((ROOT / "ray_cluster.yaml").read_text())
    jsonschema.validate(given, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**given, "spot_workers": True}, schema)


def test_the_head_is_on_demand_and_workers_are_spot_of_two_kinds(launched):
    types = launched["available_node_types"]
    workers = {name: kind for name, kind in types.items() if name != launched["head_node_type"]}
    head = types[launched["head_node_type"]]
    assert "InstanceMarketOptions" not in head["node_config"]
    assert (head["resources"]["CPU"], head["max_workers"]) == (0, 0)
    assert all(w["node_config"]["InstanceMarketOptions"]["MarketType"] == "spot" for w in workers.values())
    with_gpu = {name for name, kind in workers.items() if kind["resources"].get("GPU")}
    assert with_gpu == {"gpu"}
    assert set(workers) - with_gpu == {"decode"}
    # It shrinks to the head and can grow to all that the types allow.
    assert [w["min_workers"] for w in workers.values()] == [0, 0]
    assert sum(w["max_workers"] for w in workers.values()) == launched["max_workers"]


def test_nothing_is_installed_on_starting_and_every_machine_has_the_token(launched):
    assert launched["head_setup_commands"] == launched["worker_setup_commands"] == []
    assert any(path.endswith(".ray/auth_token") for path in launched["file_mounts"])
    for commands in (launched["head_start_ray_commands"], launched["worker_start_ray_commands"]):
        assert "RAY_AUTH_MODE=token ray start" in commands[-1]
    assert "--autoscaling-config=~/ray_bootstrap_config.yaml" in launched["head_start_ray_commands"][-1]


def test_ec2_knows_every_field_of_the_nodes(launched):
    from botocore.loaders import Loader
    from botocore.model import ServiceModel
    from botocore.validate import validate_parameters

    shape = ServiceModel(Loader().load_service_model("ec2", "service-2")).shape_for("RunInstancesRequest")
    for name, kind in launched["available_node_types"].items():
        validate_parameters({**kind["node_config"], "MinCount": 1, "MaxCount": 1}, shape)
        assert set(kind["node_config"]) <= set(shape.members), name


# Kubernetes


def _documents():
    return {path.name: yaml.safe_load(path.read_text()) for path in KUBERNETES}


def _cluster_specs():
    found = _documents()
    return {
        "raycluster.yaml": found["raycluster.yaml"]["spec"],
        "rayjob.yaml": found["rayjob.yaml"]["spec"]["rayClusterSpec"],
        "raycronjob.yaml": found["raycronjob.yaml"]["spec"]["jobTemplate"]["rayClusterSpec"],
    }


def test_the_manifests_use_fields_that_kuberay_has():
    found = _documents()
    for kind, name in (("RayJob", "rayjob.yaml"), ("RayCronJob", "raycronjob.yaml"), ("RayCluster", "raycluster.yaml")):
        assert (found[name]["apiVersion"], found[name]["kind"]) == ("ray.io/v1", kind)
    assert set(found["raycronjob.yaml"]["spec"]) <= RAY_CRON_JOB_SPEC
    for job in (found["rayjob.yaml"]["spec"], found["raycronjob.yaml"]["spec"]["jobTemplate"]):
        assert set(job) <= RAY_JOB_SPEC
        # A retry is another cluster, beside the first: paid twice.
        assert job["backoffLimit"] == 0
        assert job["shutdownAfterJobFinishes"] is True
        assert job["activeDeadlineSeconds"] < 24 * 3600
        assert yaml.safe_load(job["runtimeEnvYAML"])["env_vars"]["RAY_JOB_STOP_WAIT_TIME_S"] == "180"


@pytest.mark.parametrize("name", ["raycluster.yaml", "rayjob.yaml", "raycronjob.yaml"])
def test_the_clusters_of_the_manifests_are_one(name):
    import ray

    specs = _cluster_specs()
    spec = specs[name]
    assert spec == specs["raycluster.yaml"]
    assert set(spec) <= RAY_CLUSTER_SPEC
    assert spec["rayVersion"] == ray.__version__
    assert spec["authOptions"] == {"mode": "token"}
    head, workers = spec["headGroupSpec"], {group["groupName"]: group for group in spec["workerGroupSpecs"]}
    assert set(head) <= HEAD_GROUP
    assert head["rayStartParams"]["num-cpus"] == "0"
    assert head["template"]["spec"]["nodeSelector"]["karpenter.sh/capacity-type"] == "on-demand"
    assert set(workers) == {"decode", "gpu"}
    for group in workers.values():
        assert set(group) <= WORKER_GROUP
        assert group["minReplicas"] == 0
        assert group["template"]["spec"]["nodeSelector"]["karpenter.sh/capacity-type"] == "spot"
    # KubeRay puts the text into a shell command, hence JSON within quotes.
    assert json.loads(json.loads(workers["decode"]["rayStartParams"]["resources"])) == {"decode": 16}
    limits = {
        name: group["template"]["spec"]["containers"][0]["resources"]["limits"] for name, group in workers.items()
    }
    assert "nvidia.com/gpu" not in limits["decode"]
    assert limits["gpu"]["nvidia.com/gpu"] == "1"


def test_the_cron_job_never_overlaps_and_names_the_standing_cluster():
    spec, cluster = _documents()["cronjob.yaml"]["spec"], _documents()["raycluster.yaml"]["metadata"]["name"]
    assert spec["concurrencyPolicy"] == "Forbid"
    assert spec["jobTemplate"]["spec"]["backoffLimit"] == 0
    container = spec["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]
    # KubeRay names the head's service and the token's secret after the cluster.
    assert container["command"][-1] == f"http://{cluster}-head-svc:8265"
    assert container["env"][0]["valueFrom"]["secretKeyRef"] == {"name": cluster, "key": "auth_token"}


# The image


def _instructions():
    text = re.sub(r"^#.*\n", "", (DEPLOY / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [tuple(line.split(maxsplit=1)) for line in text.splitlines() if line.strip()]


def test_the_image_is_made_of_what_the_package_needs_and_nothing_else():
    sources = [
        s for word, rest in _instructions() if word == "COPY" and "--from" not in rest for s in rest.split()[:-1]
    ]
    packages = {pattern.rstrip("*") for pattern in PROJECT["tool"]["setuptools"]["packages"]["find"]["include"]}
    files = {PROJECT["project"]["readme"], *PROJECT["project"]["license-files"], "pyproject.toml"}
    assert set(sources) == packages | files
    rules = (DEPLOY / "Dockerfile.dockerignore").read_text().split("\n")
    let_in = {rule[1:] for rule in rules if rule.startswith("!")}
    assert "*" in rules
    assert let_in == set(sources)
    kept_out = [rule for rule in rules if rule and rule[0] not in "#!"]
    for path in ("pipeline/.env", "jobs/key.pem", "omnidrop/__pycache__"):
        assert any(fnmatch(path, rule.replace("**/", "*/")) for rule in kept_out if rule != "*"), path


def test_the_images_versions_are_the_projects():
    arguments = dict(rest.split("=", 1) for word, rest in _instructions() if word == "ARG")
    assert f"TORCH := {arguments['TORCH']}" in (ROOT / "Makefile").read_text()
    assert PROJECT["project"]["requires-python"] == f">={arguments['PYTHON_VERSION']}"
    commands = " ".join(rest for word, rest in _instructions() if word == "RUN")
    extras = re.search(r'"\.\[([\w,]+)\]"', commands)
    assert extras
    assert set(extras[1].split(",")) <= set(PROJECT["project"]["optional-dependencies"])
    images = {
        m for path in (*KUBERNETES, ROOT / "ray_cluster.yaml") for m in re.findall(r"image: (\S+)", path.read_text())
    }
    assert images == {f"registry.example.com/omnidrop:{PROJECT['project']['version']}"}


# Commands and schedules


def _airflow_command():
    tree = ast.parse((DEPLOY / "airflow" / "omnidrop_dag.py").read_text())
    (command,) = [
        ast.literal_eval(k.value)
        for n in ast.walk(tree)
        if isinstance(n, ast.Call)
        for k in n.keywords
        if k.arg == "bash_command"
    ]
    return command.replace("{{ ts_nodash }}", "20261122T020000").replace("{{ ti.try_number }}", "1")


def _cron_line():
    lines = (DEPLOY / "cron" / "omnidrop").read_text().splitlines()
    (line,) = [line for line in lines if line and line[0] not in "#SP"]
    return line


def test_every_command_that_is_called_exists_with_its_options():
    found = _documents()
    lines = {
        "rayjob": found["rayjob.yaml"]["spec"]["entrypoint"],
        "raycronjob": found["raycronjob.yaml"]["spec"]["jobTemplate"]["entrypoint"],
        "cronjob": shlex.join(
            found["cronjob.yaml"]["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]["command"]
        ),
        "systemd": re.search(r"ExecStart=(.*)", (DEPLOY / "systemd" / "omnidrop.service").read_text())[1],
        "cron": _cron_line().partition("run.lock ")[2].partition(">>")[0],
        "airflow": _airflow_command(),
    }
    for where, line in lines.items():
        program, name, *options = shlex.split(line.removeprefix("exec "))
        assert Path(program).name == "omnidrop", where
        parsed = load_command(name).make_context(name, options)
        assert parsed.params["job_file"].name == "job.yaml", where


def test_the_cron_line_is_one():
    fields = _cron_line().split()
    assert all(re.fullmatch(r"[\d*/,-]+", field) for field in fields[:5])
    assert fields[5:7] == ["omnidrop", "flock"]
    assert "%" not in _cron_line(), "cron ends a command at a %"


def test_systemd_finds_nothing_wrong(tmp_path):
    if shutil.which("systemd-analyze") is None:
        pytest.skip("needs systemd-analyze")
    units = [shutil.copy(path, tmp_path) for path in sorted((DEPLOY / "systemd").iterdir())]
    service = tmp_path / "omnidrop.service"
    installed = Path(sys.executable).parent / "omnidrop"
    service.write_text(service.read_text().replace("/opt/omnidrop/bin/omnidrop", str(installed)))
    done = subprocess.run(
        ["systemd-analyze", "verify", *units], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
