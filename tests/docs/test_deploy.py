"""What is handed over to Docker, Kubernetes, KServe and systemd: by their schemas, and its commands run."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from serving import free_port

from repr_export.pipeline import export
from repr_serve.cli import parser, settings_of
from repr_serve.settings import Settings

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
FIELDS = json.loads((ROOT / "tests/docs/kserve_fields.json").read_text("utf-8"))
"""The fields of KServe's resources that are its own, as its package publishes them."""
PLAIN = {"str": str, "int": int, "bool": bool, "list[str]": list, "dict(str, str)": dict}


def documents(name: str) -> dict[str, Any]:
    """What a file describes, by kind."""
    yaml = pytest.importorskip("yaml")
    return {one["kind"]: one for one in yaml.safe_load_all((DEPLOY / name).read_text("utf-8"))}


def require_kubernetes(document: Any) -> None:
    """Raise unless Kubernetes' own schema allows it, and every field of it."""
    schema = pytest.importorskip("kubernetes_validate")
    schema.validate(document, schema.latest_version(), strict=True)


def settings(arguments: list[str]) -> Settings:
    """What the command makes of them."""
    return settings_of(parser().parse_args(arguments))


def require_kserve(kind: str, value: Any, place: str) -> None:
    """Fail unless KServe knows each field, and it has the right type; Kubernetes' are its matter."""
    assert isinstance(value, dict), place
    for name, inner in value.items():
        assert name in FIELDS[kind], f"{place} has no field {name}"
        wanted = FIELDS[kind][name]
        listed = re.fullmatch(r"list\[(\w+)\]", wanted)
        if listed and listed[1] in FIELDS:
            for one in inner:
                require_kserve(listed[1], one, f"{place}.{name}")
        elif wanted in FIELDS:
            require_kserve(wanted, inner, f"{place}.{name}")
        elif wanted in PLAIN:
            assert isinstance(inner, PLAIN[wanted]), f"{place}.{name} is no {wanted}"
            values = (
                inner
                if isinstance(inner, list)
                else inner.values()
                if isinstance(inner, dict)
                else ()
            )
            assert all(isinstance(one, str) for one in values), f"{place}.{name}"


@pytest.mark.large
def test_the_deployment_is_kubernetes_and_its_times_fit_the_commands() -> None:
    found = documents("kubernetes.yaml")
    for document in found.values():
        require_kubernetes(document)
    pod = found["Deployment"]["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    asked = settings(container["args"])
    wait = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod["spec"]["terminationGracePeriodSeconds"] > asked.drain + wait
    ports = {one["name"]: one["containerPort"] for one in container["ports"]}
    assert ports == {"http": asked.port, "grpc": asked.grpc_port}
    assert pod["metadata"]["annotations"]["prometheus.io/port"] == str(asked.port)
    mounted = [one["mountPath"] for one in container["volumeMounts"]]
    assert str(asked.sources[0].path.parent) in mounted
    assert found["Service"]["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    assert {one["targetPort"] for one in found["Service"]["spec"]["ports"]} == set(ports)


@pytest.mark.large
def test_the_inference_service_is_kserves_and_its_pods_are_kubernetes() -> None:
    found = documents("kserve.yaml")
    assert set(found) == {"ServingRuntime", "InferenceService"}
    for kind, document in found.items():
        version = document["apiVersion"].removeprefix("serving.kserve.io/")
        require_kserve(f"{version}.{kind}", document, kind)
    runtime, service = found["ServingRuntime"]["spec"], found["InferenceService"]
    model = service["spec"]["predictor"]["model"]
    (container,) = runtime["containers"]
    for resources in (container["resources"], model["resources"]):
        pod = {"containers": [{**container, "resources": resources}]}
        require_kubernetes(
            {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "one"}, "spec": pod}
        )
    name = service["metadata"]["name"]
    asked = settings([one.replace("{{.Name}}", name) for one in container["args"]])
    assert [source.name for source in asked.sources] == [name]
    assert container["ports"][0]["containerPort"] == asked.port
    assert asked.drain < min(
        30, service["spec"]["predictor"]["timeout"]
    )  # 30: of a pod, by default
    assert model["protocolVersion"] in runtime["protocolVersions"]
    assert model["modelFormat"]["name"] == runtime["supportedModelFormats"][0]["name"]
    assert model["runtime"] == found["ServingRuntime"]["metadata"]["name"]
    broken = {**service, "spec": {"predictor": {"minReplica": 1}}}
    with pytest.raises(AssertionError, match="no field minReplica"):
        require_kserve("v1beta1.InferenceService", broken, "it")


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's, each with what follows it."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text("utf-8"), flags=re.M)
    lines = text.replace("\\\n", "").splitlines()
    return [(word, rest.strip()) for word, _, rest in (one.partition(" ") for one in lines if one)]


@pytest.mark.large
def test_the_image_has_two_stages_and_runs_the_command_itself_as_nobody_special() -> None:
    found = instructions()
    words = [word for word, _ in found]
    assert [rest for word, rest in found if word == "FROM"] == ["${BASE} AS build", "${BASE}"]
    last = dict(found[len(words) - words[::-1].index("FROM") :])
    assert int(last["USER"]) > 0
    assert json.loads(last["ENTRYPOINT"]) == ["repr-serve"]
    assert "torch" not in str(found)
    ignored = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    taken = {line[1:] for line in ignored if line.startswith("!")}
    assert taken >= {"pyproject.toml", "requirements.lock", "README.md", "LICENSE", "runtime"}
    assert all((ROOT / name).exists() for name in taken)
    linter = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if linter is None:
        pytest.skip("hadolint is not installed")
    done = subprocess.run([linter, ROOT / "Dockerfile"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_images_health_is_the_services(tmp_path: Path) -> None:
    artifact = export("lenet5", tmp_path).path
    (check,) = (rest for word, rest in instructions() if word == "HEALTHCHECK")
    program, *arguments = json.loads(check.partition("CMD ")[2])
    assert program == "python3"
    port = free_port()
    environment = {**os.environ, "REPR_SERVE_PORT": str(port), "REPR_SERVE_HOST": "127.0.0.1"}

    def healthy() -> bool:
        command = [sys.executable, *arguments]
        return subprocess.run(command, env=environment, stderr=subprocess.PIPE).returncode == 0

    assert not healthy()
    command = [
        sys.executable,
        "-m",
        "repr_serve.cli",
        str(artifact),
        "--no-grpc",
        "--device",
        "cpu",
    ]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as service:
        assert service.stderr is not None
        for line in service.stderr:
            if " ready: " in line:
                break
        try:
            assert any(healthy() for _ in range(5))  # it listens when it has said so
        finally:
            service.terminate()
        assert "all that was taken on is answered" in service.stderr.read()
    assert service.returncode in (0, -15)


def test_the_unit_is_systemds(tmp_path: Path) -> None:
    text = (DEPLOY / "repr-serve.service").read_text("utf-8")
    command = re.search(r"^ExecStart=(\S+) (.*)$", text, re.M)
    limit = re.search(r"^TimeoutStopSec=(\d+)$", text, re.M)
    assert command
    assert limit
    assert int(limit[1]) > settings(shlex.split(command[2])).drain
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd is not here")
    unit = tmp_path / "repr-serve.service"
    unit.write_text(text.replace(command[1], "/bin/true"), "utf-8")
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_what_the_page_watches_is_counted() -> None:
    page = (ROOT / "docs" / "deploy.md").read_text("utf-8")
    counted = (ROOT / "runtime/repr_serve/metrics.py").read_text("utf-8")
    names = set(re.findall(r"(repr_[a-z_]+?)(?:_total|_bucket)?(?:[{[]| ==)", page))
    assert len(names) > 4
    assert [name for name in names if f'"{name}"' not in counted] == []
