"""The files of docker/: what linters, Compose and the schemas of Kubernetes say, and what they must agree on."""

from __future__ import annotations

import copy
import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from ruamel.yaml import YAML

from tests.fixtures.commands import ROOT
from tests.fixtures.compose import COMPOSE, services

DOCKER = ROOT / "docker"
DOCKERFILE = (DOCKER / "Dockerfile").read_text(encoding="utf-8")
SECRETS = {"POSTGRES_PASSWORD": "x", "RAY_AUTH_TOKEN": "y"}
MANIFESTS = [DOCKER / "kuberay" / name for name in ("raycluster.yaml", "rayjob.yaml")]


def pinned(package: str) -> str:
    (version,) = re.findall(rf"^{package}==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    return str(version)


def test_the_dockerfile_is_clean() -> None:
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("needs hadolint")
    done = subprocess.run([hadolint, str(DOCKER / "Dockerfile")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_image_gets_what_the_package_asks_for() -> None:
    done = subprocess.run(
        [sys.executable, str(DOCKER / "requirements.py")], cwd=ROOT, capture_output=True, text=True, check=True
    )
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    assert done.stdout.splitlines() == project["dependencies"] + extras["server"] + extras["object-storage"]


def test_what_the_image_copies_is_there_and_sent_to_the_builder() -> None:
    sent = (DOCKER / "Dockerfile.dockerignore").read_text().splitlines()
    for sources in re.findall(r"^COPY (.+) \S+$", DOCKERFILE, re.MULTILINE):
        for source in sources.split():
            assert (ROOT / source).exists(), source
            assert f"!{source}" in sent


def compose(*files: str, secrets: dict[str, str] = SECRETS) -> subprocess.CompletedProcess[str]:
    """`docker compose config`: the files as Compose understands them, as JSON."""
    commands = (["docker-compose"], ["docker", "compose"])
    known = [command for command in commands if shutil.which(command[0]) and runs([*command, "version"])]
    if not known:
        pytest.skip("needs Docker Compose")
    named = [option for file in files for option in ("--file", str(DOCKER / file))]
    return subprocess.run(
        [*known[0], "--env-file", "/dev/null", *named, "config", "--format", "json"],
        env={"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/nonexistent", **secrets},
        capture_output=True,
        text=True,
        check=False,
    )


def runs(command: list[str]) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("files", [("compose.yaml",), ("compose.yaml", "compose.gpu.yaml")])
def test_compose_takes_the_files(files: tuple[str, ...]) -> None:
    done = compose(*files)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["services"]
    published = [port["host_ip"] for service in found.values() for port in service.get("ports", [])]
    assert published == ["127.0.0.1"] * 2
    gpus = found["worker"]["deploy"]["resources"].get("reservations", {}).get("devices", [])
    assert len(gpus) == len(files) - 1
    assert found["worker"]["deploy"]["replicas"] == (1 if gpus else 2)


@pytest.mark.parametrize("missing", SECRETS)
def test_compose_asks_for_a_secret_that_is_missing(missing: str) -> None:
    done = compose("compose.yaml", secrets={name: "" if name == missing else text for name, text in SECRETS.items()})
    assert done.returncode != 0
    assert missing in done.stderr


def test_the_tests_read_compose_as_compose_does() -> None:
    done = compose("compose.yaml")
    for name, service in services(SECRETS).items():
        theirs = json.loads(done.stdout)["services"][name]
        assert theirs.get("command") == service.get("command")
        assert theirs["environment"] == service["environment"]
        assert theirs["healthcheck"]["test"] == service["healthcheck"]["test"]


def test_each_service_is_checked_and_waits_for_what_it_needs() -> None:
    found = services(SECRETS)
    assert all(service["healthcheck"]["test"] for service in found.values())
    needs = {name: service.get("depends_on", {}) for name, service in found.items()}
    healthy = {"condition": "service_healthy"}
    assert needs == {
        "postgres": {},
        "mlflow": {"postgres": healthy},
        "head": {"mlflow": healthy},
        "worker": {"head": healthy},
    }
    assert found["head"]["volumes"] == found["worker"]["volumes"] == ["shared:/shared"]


def test_each_setting_is_told_with_its_default() -> None:
    text = COMPOSE.read_text(encoding="utf-8")
    used = dict(re.findall(r"\$\{(\w+)(?::-([^}]*)|:\?[^}]*)\}", text))
    told = dict(re.findall(r"^#?([A-Z_]+)=(.*)$", (DOCKER / ".env.example").read_text(), re.MULTILINE))
    assert told == used
    assert [name for name in told if name in SECRETS] == list(SECRETS)


def test_all_run_the_same_releases_as_the_same_user() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    image = f"kobert-tuning:{version}"
    assert {service["image"] for service in services(SECRETS).values()} == {image, "postgres:17.6-bookworm"}
    (user,) = re.findall(r"^USER (\d+)$", DOCKERFILE, re.MULTILINE)
    assert f"--uid {user} " in DOCKERFILE
    for spec in map(cluster_spec, MANIFESTS):
        assert spec["rayVersion"] == pinned("ray")
        for template in templates(spec):
            assert template["spec"]["securityContext"]["runAsUser"] == int(user)
            assert [container["image"] for container in template["spec"]["containers"]] == [image]


def manifest(path: Path) -> dict[str, Any]:
    return dict(YAML(typ="safe").load(path.read_text(encoding="utf-8")))


def cluster_spec(path: Path) -> dict[str, Any]:
    spec = manifest(path)["spec"]
    return dict(spec.get("rayClusterSpec", spec))


def templates(spec: dict[str, Any]) -> list[dict[str, Any]]:
    return [group["template"] for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"])]


def check_kubernetes(resource: dict[str, Any]) -> None:
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    kubernetes_validate.validate(resource, kubernetes_validate.latest_version(), strict=True)


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_kubernetes_takes_the_pods(path: Path) -> None:
    for template in templates(cluster_spec(path)):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "ray"}, "spec": template["spec"]}
        check_kubernetes(pod)
        mistyped = copy.deepcopy(pod)
        mistyped["spec"]["containers"][0]["volumeMount"] = []
        with pytest.raises(Exception, match="volumeMount"):
            check_kubernetes(mistyped)


@pytest.mark.parametrize("name", ["storage", "settings"])
def test_kubernetes_takes_what_is_beside_them(name: str) -> None:
    path = DOCKER / "kuberay" / f"{name}.yaml"
    check_kubernetes(manifest(path))
    with_all = re.sub(r"(?m)^#(  [A-Z])", r"\1", path.read_text(encoding="utf-8")).replace("data: {}", "data:")
    check_kubernetes(dict(YAML(typ="safe").load(with_all)))


def fields(required: dict[str, Any], optional: dict[str, Any]) -> dict[str, Any]:
    """The schema of an object that has no other fields."""
    return {
        "type": "object",
        "properties": required | optional,
        "required": list(required),
        "additionalProperties": False,
    }


# Those fields of ray.io/v1, as KubeRay 1.5 defines it, that the manifests use or may come to use. The whole schema, of
# 0.9 MB, is in no package; what it says of pods is Kubernetes' own, and is checked as such.
TEXT, WHOLE, TRUE = {"type": "string"}, {"type": "integer", "minimum": 0}, {"type": "boolean"}
TEXTS = {"type": "object", "additionalProperties": TEXT}
GROUP = {"rayStartParams": TEXTS, "template": {"type": "object"}}
SIZES = {"replicas": WHOLE, "minReplicas": WHOLE, "maxReplicas": WHOLE}
CLUSTER = fields(
    {
        "headGroupSpec": fields(GROUP, {"serviceType": TEXT}),
        "workerGroupSpecs": {
            "type": "array",
            "items": fields({"groupName": TEXT} | GROUP | SIZES, {"numOfHosts": WHOLE}),
        },
    },
    {
        "rayVersion": TEXT,
        "authOptions": fields({"mode": {"enum": ["disabled", "token"]}}, {}),
        "enableInTreeAutoscaling": TRUE,
        "autoscalerOptions": fields({}, {"version": {"enum": ["v1", "v2"]}, "idleTimeoutSeconds": WHOLE}),
        "suspend": TRUE,
    },
)
JOB = fields(
    {"entrypoint": TEXT, "rayClusterSpec": CLUSTER},
    {
        "runtimeEnvYAML": TEXT,
        "backoffLimit": WHOLE,
        "shutdownAfterJobFinishes": TRUE,
        "ttlSecondsAfterFinished": WHOLE,
        "activeDeadlineSeconds": WHOLE,
        "submissionMode": {"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode"]},
        "suspend": TRUE,
    },
)


@pytest.mark.parametrize(
    ("path", "kind", "schema"), zip(MANIFESTS, ("RayCluster", "RayJob"), (CLUSTER, JOB), strict=True)
)
def test_kuberay_knows_the_fields(path: Path, kind: str, schema: dict[str, Any]) -> None:
    found = manifest(path)
    assert (found["apiVersion"], found["kind"]) == ("ray.io/v1", kind)
    jsonschema.validate(found["spec"], schema)
    for group in cluster_spec(path)["workerGroupSpecs"]:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]


def test_a_job_has_the_cluster_of_the_cluster_manifest_but_for_the_folder_that_its_nodes_share() -> None:
    cluster, job = map(cluster_spec, MANIFESTS)
    for template, other in zip(templates(cluster), templates(job), strict=True):
        (shared,), (own,) = template["spec"].pop("volumes"), other["spec"].pop("volumes")
        assert "persistentVolumeClaim" in shared and "emptyDir" in own
        for each, volume in ((template, shared), (other, own)):
            (container,) = each["spec"]["containers"]
            assert [mount["name"] for mount in container.pop("volumeMounts")] == [volume["name"]]
    assert job == cluster


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_a_cluster_grows_from_no_workers(path: Path) -> None:
    spec = cluster_spec(path)
    assert spec["enableInTreeAutoscaling"] and spec["authOptions"] == {"mode": "token"}
    assert {group["groupName"] for group in spec["workerGroupSpecs"]} == {"cpu", "gpu", "gpu-spot"}
    assert all(group["replicas"] == group["minReplicas"] == 0 for group in spec["workerGroupSpecs"])
    assert all(template["spec"]["restartPolicy"] == "Never" for template in templates(spec))


def test_a_job_is_tried_again_and_may_wait_in_a_queue() -> None:
    text = MANIFESTS[1].read_text(encoding="utf-8")
    job = dict(YAML(typ="safe").load(re.sub(r"(?m)^  # (labels|annotations):", r"  \1:", text)))
    assert job["metadata"]["labels"] == {"kueue.x-k8s.io/queue-name": "kobert-sweeps"}
    assert job["metadata"]["annotations"] == {"kueue.x-k8s.io/elastic-job": "true"}
    assert job["spec"]["shutdownAfterJobFinishes"], "Kueue wants it so"
    assert len(job["spec"]["rayClusterSpec"]["workerGroupSpecs"]) <= 7, "and no more groups than this"
    assert job["spec"]["backoffLimit"] > 0 and "storage=s3://" in job["spec"]["entrypoint"]
    assert "--resume" not in job["spec"]["entrypoint"]


def test_the_job_is_a_command_that_exists(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from tuning.cli.app import app

    spec = manifest(MANIFESTS[1])["spec"]
    program, *arguments = spec["entrypoint"].split()
    assert program == "kobert-tune"
    installed = next(argument for argument in arguments if argument.endswith(".yaml"))
    here = installed.replace("/opt/kobert-tuning", str(ROOT))
    assert "WORKDIR /opt/kobert-tuning\n" in DOCKERFILE
    replaced = {installed: here, "storage=s3://my-bucket/sweeps": f"storage=file://{tmp_path}/bucket"}
    replaced["/tmp/sweeps"] = f"{tmp_path}/sweeps"
    line = [replaced.get(argument, argument) for argument in arguments]
    assert line[2:4] == ["--address", "auto"]  # a dry run would ask the cluster, which is not here
    del line[2:4]
    result = CliRunner().invoke(app, [*line, "--dry-run"])
    assert result.exit_code == 0, result.output
    assert f"{tmp_path}/sweeps/quickstart" in result.output
