"""One way into Ray for every engine: the cluster that is named, else a private one here."""

import json
import logging
import os
import shutil
import sysconfig
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray._private import ray_constants

import backstay
from backstay.errors import BackstayError

_log = logging.getLogger("backstay.engines")

_SWITCHES = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing about this run leaves the machine
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # Ray's word for: every process on the loopback
}
_LONGEST_ROOT = 24  # bytes, beside /backstay-…/session_…/sockets/plasma_store


@contextmanager
def ray_session(
    *, cpus: int | None = None, gpus: int = 0, log_to_driver: bool = False
) -> Iterator[None]:
    """Hold a connection to Ray.

    A session that is open already is used and left open. Else the cluster that RAY_ADDRESS names,
    as it does in every job, is joined and left running. Else a private Ray starts on this machine,
    listening on the loopback alone and without a dashboard, and is gone at the end, as it is when
    this process is killed. Its logs stay only where the work inside failed.

    Workers import this very Backstay, installed or not: from its own path, or from the working
    directory that came with the job.

    Args:
        cpus: What a private Ray may hand out; by default all cores. A cluster has its own count.
        gpus: The same for GPUs.
        log_to_driver: Whether what workers print is printed here too.
    """
    if ray.is_initialized():
        yield
        return
    address = os.environ.get("RAY_ADDRESS", "local")
    if address != "local":
        _log.info("joining the Ray cluster at %s", address)
        ray.init(
            address="auto" if "://" not in address else address,
            runtime_env=_runtime_env(),
            log_to_driver=log_to_driver,
            logging_level=logging.WARNING,
        )
        try:
            yield
        finally:
            ray.shutdown()
        return
    _log.info("starting Ray on this machine")
    folder = Path(tempfile.mkdtemp(prefix="backstay-", dir=_temporary_root()))
    try:
        _start(folder, cpus=cpus, gpus=gpus, log_to_driver=log_to_driver)
        try:
            yield
        finally:
            ray.shutdown()
    except BackstayError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    except BaseException:
        _log.warning("Ray's logs are kept in %s", folder)
        raise
    shutil.rmtree(folder, ignore_errors=True)


def _temporary_root() -> str:
    # Ray's sockets lie in it, and the path of a Unix socket has at most 107 bytes.
    usual = tempfile.gettempdir()
    return os.environ.get("RAY_TMPDIR") or (usual if len(usual) <= _LONGEST_ROOT else "/tmp")  # noqa: S108


def _start(folder: Path, **options: Any) -> None:
    # Ray says on every start that it has switched token authentication on, which is what we want.
    talk = logging.getLogger("ray._private.authentication.authentication_token_setup")
    talk.setLevel(logging.ERROR)
    # Ray reads this switch when it is imported, which was before anyone could set it.
    clusters, ray_constants.ENABLE_RAY_CLUSTER = ray_constants.ENABLE_RAY_CLUSTER, False
    try:
        with _environment({**_SWITCHES, **_python_path(_package_root())}):
            ray.init(
                address="local",
                num_cpus=options["cpus"],
                num_gpus=options["gpus"],
                include_dashboard=False,
                log_to_driver=options["log_to_driver"],
                logging_level=logging.WARNING,
                _node_ip_address="127.0.0.1",
                _temp_dir=str(folder),
            )
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = clusters


def _runtime_env() -> dict[str, Any]:
    """What workers of a cluster need to import Backstay, beyond what came with the job."""
    job = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")).get("runtime_env") or {}
    if "PYTHONPATH" in job.get("env_vars", {}):  # Ray refuses to be told twice
        return {}
    root = _package_root()
    # Each node unpacks the working directory at a place of its own, and workers start there.
    if root and "working_dir" in job and Path(root).is_relative_to(Path.cwd()):
        root = str(Path(root).relative_to(Path.cwd()))
    variables = _python_path(root)
    return {"env_vars": variables} if variables else {}


def _package_root() -> str:
    """The folder to import Backstay from; empty where it is installed."""
    root = str(Path(backstay.__file__).resolve().parents[1])
    return "" if root == str(Path(sysconfig.get_path("purelib")).resolve()) else root


def _python_path(root: str) -> dict[str, str]:
    if not root:
        return {}
    before = os.environ.get("PYTHONPATH")
    return {"PYTHONPATH": f"{root}{os.pathsep}{before}" if before else root}


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables, for processes started meanwhile."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
