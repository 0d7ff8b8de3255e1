"""Not a test: a driver that test_session runs. It prints as JSON what a task found."""

import json
import os
import sys
from pathlib import Path

# A job's working directory has the code and not the tests: import each from where it is.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "platform"))
sys.path.insert(0, str(Path.cwd() / "platform"))

import ray

from backstay.cluster.session import ray_session
from tests.support.processes import pids_of
from tests.support.sockets import exposed


@ray.remote
def probe():
    import backstay  # noqa: PLC0415 - on the worker

    return str(Path(backstay.__file__).resolve()), ray.get_runtime_context().gcs_address


before = dict(os.environ)
with ray_session(cpus=1):
    with ray_session(cpus=5):
        path, address = ray.get(probe.remote())
    still_open = ray.is_initialized()
    # Of this driver, and of its Ray: for a job, the whole cluster.
    sockets = exposed([os.getpid(), *pids_of(os.environ["RAY_TMPDIR"])])
    nodes = [(node["NodeManagerAddress"], node["Resources"].get("CPU")) for node in ray.nodes()]
changed = {n for n in {*before, *os.environ} if before.get(n) != os.environ.get(n)}
found = {
    "imported": path,
    "address": address,
    "nodes": nodes,
    "exposed": sockets,
    "still_open": still_open,
    "closed": not ray.is_initialized(),
    "changed": sorted(changed),
}
print("found", json.dumps(found))  # noqa: T201
