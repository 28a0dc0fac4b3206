"""The Helm chart: what it creates for several values, and what it shares with docker compose."""

import os
import shutil
import subprocess
from base64 import b64decode
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import jsonschema
import pytest
import yaml

from loupe.settings import Settings
from tests.support.kubernetes import validate

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy/helm/loupe"
RUNTIME = ROOT / "deploy/kserve/serving-runtime.yaml"
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
DATA = os.environ.get("LOUPE_TEST_DATA")
PROGRAMS = ["service", "worker", "train"]
KEYS = {"apiKeysSecret": "keys"}
EXTERNAL = {"redis": {"url": "rediss://redis.example.org:6379/0", "passwordSecret": "redis"}}
VALUES: dict[str, dict[str, Any]] = {
    "nothing": {},
    "external Redis": EXTERNAL,
    "external Redis without a password": {"redis": {"url": "redis://redis:6379/0"}},
    "Sentinels with TLS": {
        "redis": {
            "url": "rediss+sentinel://loupe@one:26379,two:26379/queue/0",
            "passwordSecret": "redis",
            "caSecret": "redis-ca",
        }
    },
    "workers as jobs": {"worker": {"scaling": "jobs", "backlogKeySecret": "key"}, **KEYS},
    "scaled workers": {"worker": {"scaling": "object", "maxReplicas": 50}},
    "everything": {
        "image": {"registry": "registry.example.org/", "tag": "1", "pullSecrets": ["pull"]},
        "settings": {"LOUPE_LOG_FORMAT": "json", "LOUPE_ACCESS_LOG": True, "LOUPE_THREADS": 2},
        "settingsSecrets": ["bucket"],
        "service": {"grpc": True, "jobRoots": "/data", "autoscaling": {"enabled": True}},
        "train": {"args": ["--dataset", "folder:/data/photos", "--epochs", 3]},
        "storage": {
            "models": {"existingClaim": "models"},
            "data": {"className": "nfs"},
            "pictures": {"existingClaim": "pictures"},
        },
        "serviceMonitor": {"enabled": True, "labels": {"release": "p"}, "keySecret": "key"},
        "nodeSelector": {"disktype": "ssd"},
        "tolerations": [{"key": "bulk", "operator": "Exists"}],
        **KEYS,
    },
    "little": {
        "networkPolicy": False,
        "train": {"enabled": False},
        "service": {"disruptionBudget": False, "replicas": 1},
    },
}

Object: TypeAlias = dict[str, Any]

pytestmark = pytest.mark.skipif(shutil.which("helm") is None, reason="helm is not installed")


def helm(*arguments: str, values: str) -> subprocess.CompletedProcess[str]:
    command = ["helm", *arguments, "--values", "-"]
    return subprocess.run(command, input=values, capture_output=True, text=True)


@cache
def rendered(values: str) -> str:
    made = helm("template", "release", str(CHART), "--namespace", "space", values=values)
    assert made.returncode == 0, made.stderr
    return made.stdout


def objects(values: Object) -> list[Object]:
    return [each for each in yaml.safe_load_all(rendered(yaml.dump(values))) if each]


def find(values: Object, kind: str, name: str) -> Object:
    [found] = [
        each
        for each in objects(values)
        if (each["kind"], each["metadata"]["name"]) == (kind, f"release-loupe-{name}")
    ]
    return found


def pods(values: Object) -> Iterator[tuple[str, Object]]:
    """Yield the component and the specification of each pod."""
    for each in objects(values):
        spec = each.get("spec", {})
        template = spec.get("jobTargetRef", spec).get("template")
        if template:
            yield template["metadata"]["labels"]["app.kubernetes.io/component"], template["spec"]


def environment(pod: Object) -> set[str]:
    return {variable["name"] for variable in pod["containers"][0]["env"]}


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES.keys())
def test_helm_finds_no_fault(values: Object) -> None:
    checked = helm("lint", "--strict", str(CHART), values=yaml.dump(values))
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES.keys())
def test_every_object_follows_the_schema_of_kubernetes(values: Object) -> None:
    foreign = {"ScaledJob", "ScaledObject", "ServiceMonitor", "TriggerAuthentication"}
    for each in objects(values):
        if each["kind"] not in foreign:
            validate(each)


@pytest.mark.skipif(DATA is None, reason="LOUPE_TEST_DATA has the schemas of KEDA's resources")
@pytest.mark.parametrize("name", ["workers as jobs", "scaled workers"])
def test_objects_of_keda_follow_their_schemas(name: str) -> None:
    definitions = [
        yaml.safe_load(path.read_text()) for path in Path(str(DATA), "keda").glob("*.yaml")
    ]
    schemas = {
        each["spec"]["names"]["kind"]: each["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
        for each in definitions
    }
    checked = [each for each in objects(VALUES[name]) if each["kind"] in schemas]
    for each in checked:
        jsonschema.validate(each, _strict(schemas[each["kind"]]))
    assert checked


def _strict(schema: Any) -> Any:
    """Return a schema that refuses unknown fields, as Kubernetes would drop them."""
    if isinstance(schema, list):
        return [_strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    strict = {name: _strict(each) for name, each in schema.items()}
    if isinstance(schema.get("properties"), dict) and "type" in schema:
        keeps = schema.get("x-kubernetes-preserve-unknown-fields", False)
        is_root = {"kind", "apiVersion", "metadata"} <= schema["properties"].keys()
        if not (keeps or is_root):
            strict.setdefault("additionalProperties", False)
    if schema.get("x-kubernetes-int-or-string"):
        strict.pop("type", None)
    return strict


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES.keys())
def test_pods_are_restricted(values: Object) -> None:
    for component, pod in pods(values):
        assert pod["securityContext"]["runAsNonRoot"] is True, component
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
        for volume in pod["volumes"]:
            allowed = {"name", "emptyDir", "persistentVolumeClaim", "secret"}
            assert volume.keys() <= allowed, volume
        for container in [*pod.get("initContainers", []), *pod["containers"]]:
            security = container["securityContext"]
            assert security["allowPrivilegeEscalation"] is False
            assert security["readOnlyRootFilesystem"] is True
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert not any("hostPort" in port for port in container.get("ports", []))
            assert {"requests", "limits"} <= container["resources"].keys()
            assert "memory" in container["resources"]["limits"]


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_have_the_variables_and_volumes_of_docker_compose(name: str) -> None:
    values = {"storage": {"pictures": {"existingClaim": "pictures"}}}
    pod = dict(pods(values | {"service": {"jobRoots": "/data"}}))[name]

    assert set(COMPOSE[name]["environment"]) <= environment(pod)
    mounts = {
        mount["mountPath"]: mount.get("readOnly", False)
        for mount in pod["containers"][0]["volumeMounts"]
    }
    for volume in COMPOSE[name]["volumes"]:
        path, _, mode = volume.replace(":-", "-").partition(":")[2].partition(":")
        assert mounts[path] is (mode == "ro"), path


def test_redis_is_that_of_docker_compose() -> None:
    pod = dict(pods({}))["redis"]["containers"][0]

    assert pod["image"] == COMPOSE["redis"]["image"]
    for option in ("appendonly yes", "appendfsync everysec", "maxmemory-policy noeviction"):
        assert f"--{option}" in pod["command"][2]
        assert f"--{option}" in COMPOSE["redis"]["command"][2]


@pytest.mark.parametrize("values", [{}, {"service": {"drainSeconds": 60, "shutdownSeconds": 90}}])
def test_pods_have_more_time_to_end_than_their_programs_take(values: Object) -> None:
    for component, pod in pods(values):
        found = {each["name"]: each.get("value") for each in pod["containers"][0].get("env", [])}
        drain = int(found.get("LOUPE_DRAIN_SECONDS", 0))
        needed = drain + int(found.get("LOUPE_SHUTDOWN_TIMEOUT_SECONDS", 10))
        assert pod["terminationGracePeriodSeconds"] > needed, component


def redis_url(pod: Object) -> str:
    """Return the address of Redis in a pod, which the settings must take."""
    variables = {each["name"]: each.get("value") for each in pod["containers"][0]["env"]}
    url = variables["LOUPE_REDIS_URL"]
    assert Settings(redis_url=url).redis_url == url
    return str(url)


@pytest.mark.parametrize("name", ["service", "worker"])
def test_external_redis_replaces_the_chart_s(name: str) -> None:
    assert "redis" not in dict(pods(EXTERNAL))
    assert redis_url(dict(pods(EXTERNAL))[name]) == EXTERNAL["redis"]["url"]


@pytest.mark.parametrize("name", ["service", "worker"])
@pytest.mark.parametrize(
    ("query", "mark"), [("", "?"), ("?ssl_certfile=/run/client.pem", "&")], ids=["", "query"]
)
def test_programs_trust_the_certificate_authority_of_redis(
    name: str, query: str, mark: str
) -> None:
    address = f"rediss+cluster://loupe@one:6379,two:6379{query}"
    pod = dict(pods({"redis": {"url": address, "caSecret": "authority"}}))[name]

    url, _, file = redis_url(pod).rpartition(f"{mark}ssl_ca_certs=")
    assert url == address
    [mount] = [each for each in pod["containers"][0]["volumeMounts"] if each["name"] == "redis-ca"]
    assert Path(file) == Path(mount["mountPath"]) / "ca.crt"
    [volume] = [each for each in pod["volumes"] if each["name"] == "redis-ca"]
    assert volume["secret"]["secretName"] == "authority"


def test_no_secret_is_in_the_chart() -> None:
    for each in objects({"redis": {"passwordSecret": "mine"}}):
        assert each["kind"] != "Secret"
    password = find({}, "Secret", "redis")["data"]["password"]
    assert len(b64decode(password)) == 32


@pytest.mark.parametrize(("scaling", "kind"), [("jobs", "ScaledJob"), ("object", "ScaledObject")])
def test_workers_scale_from_zero_by_the_backlog(scaling: str, kind: str) -> None:
    values = {"worker": {"scaling": scaling, "stepsPerWorker": 5}}
    spec = find(values, kind, "worker")["spec"]

    [trigger] = spec["triggers"]
    assert trigger["type"] == "metrics-api"
    service = find(values, "Service", "service")
    port = service["spec"]["ports"][0]["port"]
    address = f"http://release-loupe-service.space.svc:{port}"
    assert trigger["metadata"]["url"] == f"{address}/jobs/backlog?steps_per_worker=5"
    assert trigger["metadata"]["valueLocation"] == "workers_wanted"
    assert spec.get("minReplicaCount", 0) == 0
    if scaling == "jobs":
        args = spec["jobTargetRef"]["template"]["spec"]["containers"][0]["args"]
        assert args == ["worker", "--burst"]


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"service": {"port": 70_000}}, "port"),
        ({"service": {"replica": 2}}, "replica"),
        ({"worker": {"scaling": "more"}}, "scaling"),
        ({"redis": {"url": "redis://:secret@redis:6379/0"}}, "url"),
        ({"redis": {"url": "redis+sentinel://user:secret@one:26379/queue"}}, "url"),
        ({"redis": {"url": "redis.example.org"}}, "url"),
        ({"settings": {"LOUPE_PORT": 80}}, "LOUPE_PORT"),
        ({"settings": {"LOUPE_LOG_FORMAT": {"json": True}}}, "LOUPE_LOG_FORMAT"),
        ({"image": {"registry": "registry.example.org"}}, "registry"),
        ({"storage": {"data": {"size": "50"}}}, "size"),
        ({"train": {"args": "--dataset mnist"}}, "args"),
        ({"apiKeysSecret": "A secret"}, "apiKeysSecret"),
    ],
)
def test_wrong_value_is_refused_by_name(values: Object, field: str) -> None:
    made = helm("template", "release", str(CHART), values=yaml.dump(values))

    assert made.returncode != 0
    assert field in made.stderr


def test_chart_trains_a_small_model_first_and_then_the_full_one() -> None:
    pod = dict(pods({}))["train"]
    [first], [full] = pod["initContainers"], pod["containers"]

    assert first["args"][:3] == ["train", "--quick", "--if-empty"]
    assert full["args"][:3] == ["train", "--if-missing", "--promote"]
    assert first["args"][3:] == full["args"][3:]
    assert first["volumeMounts"] == full["volumeMounts"]


def test_container_of_kserve_s_runtime_follows_the_schema() -> None:
    runtime, service = yaml.safe_load_all(RUNTIME.read_text())
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "a"},
        "spec": {name: runtime["spec"][name] for name in ("containers", "volumes")},
    }

    validate(pod)
    [container] = runtime["spec"]["containers"]
    assert container["name"] == "kserve-container"  # KServe looks for it
    formats = [each["name"] for each in runtime["spec"]["supportedModelFormats"]]
    assert service["spec"]["predictor"]["model"]["modelFormat"]["name"] in formats
