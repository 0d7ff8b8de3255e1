"""What every job shares: the code that was submitted runs, here and on the cluster's workers."""

import json
import os
import sys
from pathlib import Path

# The working directory that came with the job goes before a Backstay installed on the cluster.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "platform"))


def drive(verb: str) -> None:
    """Run a `backstay` command as the driver of a Ray job."""
    from backstay.cli import main  # noqa: PLC0415 - from the path above

    if "RAY_ADDRESS" in os.environ:  # as in every job; elsewhere the command finds its own way
        _connect()
    main([verb, *sys.argv[1:]], prog_name=f"jobs/{Path(sys.argv[0]).name}")


def _connect() -> None:
    import ray  # noqa: PLC0415 - --help on a laptop does without

    job = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}"))
    given = (job.get("runtime_env") or {}).get("env_vars") or {}
    # Relative: each node unpacks the working directory at a place of its own, and workers start
    # there. A path that came with the job stays; Ray refuses to be told twice.
    mine = {} if "PYTHONPATH" in given else {"env_vars": {"PYTHONPATH": "platform"}}
    ray.init(runtime_env=mine)
