"""Asks every listening port of this network namespace without the token, and reports answers.

`python port_scan.py ADDRESS` prints a JSON list of [port, process, request, answer], leaving out
refusals. ADDRESS is asked where a port listens on all addresses.
"""

import json
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator

import grpc
import psutil

PATHS = (
    *("/", "/metrics", "/api/version", "/api/jobs/", "/api/cluster_status", "/nodes?view=summary"),
    *("/api/serve/applications/", "/logs/", "/api/gcs_healthz", "/api/local_raylet_healthz"),
    *("/timezone", "/api/authentication_mode", "/get_runtime_env", "/get_or_create_runtime_env"),
)
# Not ray.rpc.syncer.RaySyncer/StartSync: without its metadata it ends the GCS of Ray 2.60.
METHODS = (
    *("NodeInfoGcsService/GetAllNodeInfo", "NodeInfoGcsService/CheckAlive"),
    *("NodeInfoGcsService/GetClusterId", "InternalKVGcsService/InternalKVKeys"),
    *("InternalKVGcsService/GetInternalConfig", "JobInfoGcsService/GetAllJobInfo"),
    *("ActorInfoGcsService/GetAllActorInfo", "WorkerInfoGcsService/GetAllWorkerInfo"),
    *("TaskInfoGcsService/GetTaskEvents", "RayEventExportGcsService/AddEvents"),
    *("PlacementGroupInfoGcsService/GetAllPlacementGroup", "RuntimeEnvGcsService/PinRuntimeEnvURI"),
    *("NodeResourceInfoGcsService/GetAllTotalResources",),
    *("ControlPlanePubSubGcsService/GcsPublish", "ObservabilityPubSubService/GcsPublish"),
    *("autoscaler.AutoscalerStateService/GetClusterStatus", "NodeManagerService/GetSystemConfig"),
    *("NodeManagerService/GetNodeStats", "NodeManagerService/ShutdownRaylet"),
    *("ObjectManagerService/Pull", "ObjectManagerService/Push", "CoreWorkerService/PushTask"),
    *("CoreWorkerService/GetCoreWorkerStats", "CoreWorkerService/Exit"),
    *("ReporterService/GetTraceback", "ReporterService/HealthCheck", "LogService/ListLogs"),
    *("RayletDriver/ClusterInfo", "RayletDataStreamer/Datapath", "RayletLogStreamer/Logstream"),
    *("events.EventAggregatorService/AddEvents",),
)
OTHERS = (
    "grpc.health.v1.Health/Check",
    "opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
    "ray.serve.RayServeAPIService/Healthz",
)
REFUSED = {401, 403, "UNAUTHENTICATED", "PERMISSION_DENIED"}
ABSENT = {404, 405, "UNIMPLEMENTED"}


def listening(address: str) -> dict[tuple[str, int], str]:
    """Every listening TCP port, and its process."""
    found = {}
    for connection in psutil.net_connections("tcp"):
        if connection.status == psutil.CONN_LISTEN and connection.pid:
            host = connection.laddr.ip.removeprefix("::ffff:")
            where = address if host in {"::", "0.0.0.0"} else host
            found[where, connection.laddr.port] = psutil.Process(connection.pid).name()
    return found


def http_answers(host: str, port: int) -> Iterator[tuple[str, int | str]]:
    for path in PATHS:
        try:
            with urllib.request.urlopen(f"http://{host}:{port}{path}", timeout=3) as answer:
                yield path, answer.status
        except urllib.error.HTTPError as error:
            yield path, error.code
        except (OSError, ValueError, EOFError):
            return  # this port does not speak HTTP/1
        except Exception:  # noqa: BLE001 - http.client's errors have no common base but this
            return


def grpc_answers(host: str, port: int) -> Iterator[tuple[str, str]]:
    with grpc.insecure_channel(f"{host}:{port}") as channel:
        for method in (*(f"ray.rpc.{name}" for name in METHODS), *OTHERS):
            try:
                channel.unary_unary(f"/{method}")(b"", timeout=3)
                yield method, "OK"
            except grpc.RpcError as error:
                if error.code().name == "UNAVAILABLE":
                    return  # this port does not speak gRPC
                yield method, error.code().name


def main() -> None:
    asked, answered = [], []
    for (host, port), process in sorted(listening(sys.argv[1]).items()):
        replies = [*http_answers(host, port), *grpc_answers(host, port)]
        asked.append([host, port, process, len(replies)])
        answered += [
            [host, port, process, request, answer]
            for request, answer in replies
            if answer not in REFUSED | ABSENT
        ]
    sys.stdout.write(json.dumps({"asked": asked, "answered": answered}) + "\n")


if __name__ == "__main__":
    main()
