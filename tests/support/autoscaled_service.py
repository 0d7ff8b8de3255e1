"""The look-up service of serve/cluster.yaml on a small cluster, and the load on it."""

import subprocess
import sys
import threading
from pathlib import Path

import yaml

from tests.support.processes import ROOT


def serve_config(registry: str, cache: Path, *, most: int) -> dict[str, object]:
    """serve/cluster.yaml with one replica at least, and decisions within seconds."""
    config = yaml.safe_load((ROOT / "serve" / "cluster.yaml").read_text("utf-8"))
    (deployment,) = config["applications"][0]["deployments"]
    deployment["autoscaling_config"] |= {
        "min_replicas": 1,
        "max_replicas": most,
        "upscale_delay_s": 2,
        "downscale_delay_s": 5,
        "metrics_interval_s": 1,
        "look_back_period_s": 3,
    }
    deployment["user_config"] |= {"registry": registry, "cache": str(cache)}
    return {**config, "proxy_location": "HeadOnly"}  # all machines have the address of the head


def serve_cli(variables: dict[str, str], *arguments: str) -> None:
    code = "from ray.serve.scripts import cli; cli()"
    subprocess.run(
        [sys.executable, "-c", code, *arguments], check=True, capture_output=True, timeout=120,
        env={**variables, "RAY_DASHBOARD_ADDRESS": "http://127.0.0.1:8265"},
    )  # fmt: skip


def replicas() -> int:
    """How many replicas of `lookup` run."""
    from backstay.serving.ray_serve import serve  # noqa: PLC0415

    running = (
        deployment.replica_states.get("RUNNING", 0)
        for application in serve.status().applications.values()
        for name, deployment in application.deployments.items()  # none before it is built
        if name == "lookup"
    )
    return sum(running)


class Load:
    """Threads that look all items up in version 0, over and over, and check the answers."""

    def __init__(self, registry: str, *, threads: int) -> None:
        from backstay.registry import tokens  # noqa: PLC0415
        from backstay.registry.store import Registry  # noqa: PLC0415

        space = Registry(registry).space("movies")
        ids, values = space.table(2, "item").read()
        self.ids = ids.to_pylist()
        self.expected = values @ space.chain(2, 0).matrix.T
        _, self.token = tokens.create(Registry(registry).files, "load")
        self.answers, self.failures = 0, []
        self.threads = [threading.Thread(target=self._ask) for _ in range(threads)]
        self.stop = threading.Event()

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.stop.set()
        for thread in self.threads:
            thread.join()

    def _ask(self) -> None:
        import numpy as np  # noqa: PLC0415

        from backstay.serving.client import Client  # noqa: PLC0415

        with Client("http://127.0.0.1:8000", token=self.token) as client:
            while not self.stop.is_set():
                try:
                    found = client.lookup("movies", "item", self.ids, version=0)
                    np.testing.assert_allclose(found.values, self.expected, rtol=1e-3, atol=1e-3)
                    self.answers += 1
                except Exception as error:  # noqa: BLE001 - reported
                    self.failures.append(str(error))
