"""A conversion that is killed at random moments, again and again, and then left to finish."""

import contextlib
import dataclasses
import json
import os
import random
import signal
import subprocess
import time

from tests.support.processes import environment, start_python

# Children are forks of a process that has imported everything, so that they start at once.
CHILDREN = """
import json, os, sys
import s3fs
from backstay.engines.conversion import config, plan, work
from backstay.engines.conversion.convert import convert

add = work.Progress.add

def tell(text):
    os.write(1, f"{text}\\n".encode())  # a line at once: two processes write here

def add_and_tell(self, record):
    tell("part")
    add(self, record)

def run(wanted):
    plan.PART_BYTES = (wanted["part"], wanted["part"])
    plan.GROUP_BYTES = wanted["part"] // 4
    work.Progress.add = add_and_tell
    tell("began")
    wanted["config"]["targets"] = tuple(wanted["config"]["targets"])
    report = convert(config.ConvertConfig(**wanted["config"]))
    tell(f"finished {report.resumed}")

for line in sys.stdin:
    pid = os.fork()
    if not pid:
        try:
            run(json.loads(line))
        except BaseException as error:
            tell(f"failed {error!r}")
        finally:
            os._exit(0)
    tell(f"child {pid}")
    os.waitpid(pid, 0)
    tell("ended")
"""


def kill_ten_times(config, *, part, parts, seed=0, **variables) -> int:
    """Run a conversion, kill it ten times, let it finish; parts that its last run found done.

    Each run is killed after one to `parts` / 12 more parts, at a random moment of the next.
    """
    rng = random.Random(seed)
    wanted = json.dumps({"config": dataclasses.asdict(config), "part": part})
    with start_python(
        *("-c", CHILDREN),
        env=environment(**variables),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            for _ in range(10):
                _start(process, wanted, kill_after=rng.randint(0, parts // 12), rng=rng)
            lines = _start(process, wanted, kill_after=None, rng=rng)
        finally:
            process.stdin.close()
            process.wait(60)
    assert lines[-1].startswith("finished"), lines[-1]
    return int(lines[-1].split()[1])


def _start(process, wanted, *, kill_after, rng):
    """One run; kills it at a random moment once it has done so many parts."""
    process.stdin.write(wanted + "\n")
    process.stdin.flush()
    lines, child = [], None
    done = 0
    for raw in process.stdout:
        line = raw.strip()
        if line == "ended":
            break
        lines.append(line)
        if line.startswith("child"):
            child = int(line.split()[1])
        done += line == "part"
        if kill_after is not None and child and "began" in lines and done >= kill_after:
            time.sleep(rng.uniform(0, 0.02))
            with contextlib.suppress(ProcessLookupError):  # it finished first
                os.kill(child, signal.SIGKILL)
            kill_after = None
    assert not lines[-1].startswith("failed"), lines[-1]
    return lines
