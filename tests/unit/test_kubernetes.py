"""The manifests in kubernetes/: valid, and the same as cluster.yaml and serve/cluster.yaml."""

import os
import re
from copy import deepcopy
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from tests.support.processes import ROOT

Manifest = dict[str, Any]
KINDS = {"cluster": "RayCluster", "lookup-service": "RayService", "update-job": "RayJob"}
GIVEN = os.environ.get("BACKSTAY_KUBERAY_CRDS")


def load(path: str) -> Manifest:
    return yaml.safe_load((ROOT / path).read_text("utf-8"))


CLUSTER = load("cluster.yaml")
MANIFESTS = {name: load(f"kubernetes/{name}.yaml") for name in KINDS}
SPECS = {
    "cluster": MANIFESTS["cluster"]["spec"],
    "lookup-service": MANIFESTS["lookup-service"]["spec"]["rayClusterConfig"],
}
CPU, GPU = (CLUSTER["available_node_types"][name] for name in ("cpu_worker", "gpu_worker"))


def record(required: str, **properties: object) -> Manifest:
    return {
        "type": "object",
        "properties": properties,
        "required": required.split(),
        "additionalProperties": False,
    }


TEXT, NUMBER, FLAG = {"type": "string"}, {"type": "integer", "minimum": 0}, {"type": "boolean"}
TEXTS = {"type": "object", "additionalProperties": TEXT}
POD: Manifest = {"type": "object"}  # checked by the schemas of Kubernetes instead
SPEC = record(
    "headGroupSpec rayVersion authOptions",
    rayVersion=TEXT,
    authOptions=record("mode", mode={"enum": ["token", "disabled"]}, secretName=TEXT),
    enableInTreeAutoscaling=FLAG,
    autoscalerOptions=record(
        "",
        version={"enum": ["v1", "v2"]},
        idleTimeoutSeconds=NUMBER,
        env={"type": "array", "items": record("name", name=TEXT, value=TEXT)},
    ),
    headGroupSpec=record("rayStartParams template", rayStartParams=TEXTS, template=POD),
    workerGroupSpecs={
        "type": "array",
        "items": record(
            "groupName minReplicas maxReplicas rayStartParams template",
            groupName=TEXT,
            replicas=NUMBER,
            minReplicas=NUMBER,
            maxReplicas=NUMBER,
            rayStartParams=TEXTS,
            template=POD,
        ),
    },
)
# The fields that the manifests use, typed as KubeRay's API reference types them.
FIELDS = {
    "RayCluster": SPEC,
    "RayService": record(
        "serveConfigV2 rayClusterConfig", serveConfigV2=TEXT, rayClusterConfig=SPEC
    ),
    "RayJob": record(
        "entrypoint clusterSelector",
        entrypoint=TEXT,
        clusterSelector=TEXTS,
        submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode"]},
        backoffLimit=NUMBER,
        submitterConfig=record("", backoffLimit=NUMBER),
    ),
}


def check(manifest: Manifest) -> None:
    assert manifest["apiVersion"] == "ray.io/v1"
    jsonschema.validate(manifest["spec"], FIELDS[manifest["kind"]])
    spec = manifest["spec"].get("rayClusterConfig", manifest["spec"])
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]] if "headGroupSpec" in spec else []
    for group in groups:
        check_core({"apiVersion": "v1", "kind": "Pod", **group["template"]})


def check_core(manifest: Manifest) -> None:
    version = kubernetes_validate.latest_version()
    kubernetes_validate.validate(manifest, version, strict=True)


@pytest.mark.parametrize("name", KINDS)
def test_a_manifest_has_valid_fields_and_pods(name):
    assert MANIFESTS[name]["kind"] == KINDS[name]
    check(MANIFESTS[name])


def test_the_network_policy_is_valid():
    check_core(load("kubernetes/network-policy.yaml"))


@pytest.mark.skipif(not GIVEN, reason="BACKSTAY_KUBERAY_CRDS names no folder of KubeRay's CRDs")
@pytest.mark.parametrize("name", KINDS)
def test_kuberays_own_schema_accepts_it(name):
    plural = f"{KINDS[name].lower()}s"
    definition = yaml.safe_load(Path(str(GIVEN), f"ray.io_{plural}.yaml").read_text("utf-8"))
    (schema,) = [v["schema"] for v in definition["spec"]["versions"] if v["name"] == "v1"]
    jsonschema.validate(MANIFESTS[name], schema["openAPIV3Schema"])


def _typo(spec: Manifest) -> None:
    spec["enableInTreeAutoscalin"] = True


def _number_for_a_text(spec: Manifest) -> None:
    spec["headGroupSpec"]["rayStartParams"]["num-cpus"] = 0


def _typo_in_a_pod(spec: Manifest) -> None:
    spec["headGroupSpec"]["template"]["spec"]["containers"][0]["images"] = "x"


def _no_group_name(spec: Manifest) -> None:
    del spec["workerGroupSpecs"][0]["groupName"]


@pytest.mark.parametrize("plant", [_typo, _number_for_a_text, _typo_in_a_pod, _no_group_name])
def test_a_planted_mistake_is_found(plant):
    broken = deepcopy(MANIFESTS["cluster"])
    plant(broken["spec"])
    with pytest.raises((jsonschema.ValidationError, kubernetes_validate.ValidationError)):
        check(broken)


def containers(spec: Manifest) -> list[Manifest]:
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    return [group["template"]["spec"]["containers"][0] for group in groups]


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_versions_and_images_are_those_of_cluster_yaml(spec):
    lock = (ROOT / "requirements.lock").read_text("utf-8")
    assert re.findall(r"^ray==(\S+)", lock, re.MULTILINE) == [spec["rayVersion"]]
    head, cpu, *gpu = [container["image"] for container in containers(spec)]
    assert head == cpu == CLUSTER["docker"]["image"]
    assert gpu in ([], [GPU["docker"]["worker_image"]])


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_sizes_are_those_of_cluster_yaml(spec):
    assert spec["autoscalerOptions"]["idleTimeoutSeconds"] == CLUSTER["idle_timeout_minutes"] * 60
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert not any(CLUSTER["available_node_types"]["head"]["resources"].values())
    for group, node in zip(spec["workerGroupSpecs"], (CPU, GPU), strict=False):
        resources = node["resources"]
        assert group["maxReplicas"] == node["max_workers"]
        assert group["rayStartParams"]["num-cpus"] == str(resources["CPU"])
        assert group["rayStartParams"].get("num-gpus", "0") == str(resources.get("GPU", 0))
        asked = group["template"]["spec"]["containers"][0]["resources"]
        assert asked["requests"] == asked["limits"]
        assert asked["limits"]["cpu"] == str(resources["CPU"])
        assert asked["limits"].get("nvidia.com/gpu", "0") == str(resources.get("GPU", 0))


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_ports_are_those_of_cluster_yaml(spec):
    _, start = CLUSTER["head_start_ray_commands"]
    ports = dict(re.findall(r"--((?:\w+-)*port)=(\d+)", start))
    head = spec["headGroupSpec"]["rayStartParams"]
    assert {name: value for name, value in head.items() if name.endswith("port")} == ports
    named = {port["name"]: port["containerPort"] for port in containers(spec)[0]["ports"]}
    assert named == {"gcs-server": int(ports["port"]), "dashboard": int(ports["dashboard-port"])}
    _, join = CLUSTER["worker_start_ray_commands"]
    for group in spec["workerGroupSpecs"]:
        params = group["rayStartParams"]
        given = {name: value for name, value in params.items() if name.endswith("port")}
        assert given == dict(re.findall(r"--((?:\w+-)+port)=(\d+)", join))


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_environment_is_that_of_cluster_yaml(spec):
    pairs = (option.removeprefix("--env=") for option in CLUSTER["docker"]["run_options"])
    expected = dict(pair.split("=") for pair in pairs if "RAY_AUTH" not in pair)
    assert {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH"}.isdisjoint(expected)
    for part in [*containers(spec), spec["autoscalerOptions"]]:
        assert {entry["name"]: entry["value"] for entry in part["env"]} == expected
    assert spec["authOptions"] == {"mode": "token", "secretName": "backstay-token"}


def test_the_service_is_that_of_serve_cluster_yaml():
    found = yaml.safe_load(MANIFESTS["lookup-service"]["spec"]["serveConfigV2"])
    assert found == load("serve/cluster.yaml")


def test_the_job_runs_on_the_cluster():
    selector = MANIFESTS["update-job"]["spec"]["clusterSelector"]
    assert selector == {"ray.io/cluster": MANIFESTS["cluster"]["metadata"]["name"]}


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_the_network_policy_covers_every_pod(spec):
    policy = load("kubernetes/network-policy.yaml")["spec"]
    for group in [spec["headGroupSpec"], *spec["workerGroupSpecs"]]:
        assert group["template"]["metadata"]["labels"] == policy["podSelector"]["matchLabels"]
