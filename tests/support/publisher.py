"""A process that publishes while others do, or is killed while it publishes.

Run as `python -m tests.support.publisher race ROOT RUN RIVAL ROUNDS`, `… kill ROOT`,
`… kill_s3 URL` or `… crowd ROOT PUBLISHERS VERSIONS`.
"""

import functools
import json
import os
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from backstay.compat.maps import BackwardMap
from backstay.errors import RegistryError, VersionExistsError
from backstay.registry.store import Registry
from backstay.registry.verify import verify
from tests.support import builders
from tests.support.kills import kill_at, kill_at_request, kill_each


def publish(space, version, run_id, *, recall=0.25, before=lambda: None):
    """Stage a version, call `before`, and publish the version."""
    draft = space.draft(version, run_id=run_id)
    builders.stage(draft, previous_dim=4 if version else None, recall=recall)
    before()
    builders.publish(draft)


def race(root, run_id, rival, rounds):
    """Publish version 0 of space after space at the moment the rival does; print who won."""
    registry = Registry(root)
    won = []
    for n in range(int(rounds)):

        def meet(n=n):
            Path(root, f"{run_id}-{n}").touch()
            while not Path(root, f"{rival}-{n}").exists():
                time.sleep(0)

        try:
            publish(registry.space(f"space-{n}"), 0, run_id, recall=len(run_id), before=meet)
            won.append(True)
        except VersionExistsError:
            won.append(False)
    print(json.dumps(won))  # noqa: T201


def kill(root):
    """Kill a publisher at its n-th change to the disk, for many n; then let it run again.

    While it stages, at every 6th; while it publishes, at each. Prints, for either phase, the latest
    version that a reader saw after each kill.
    """
    os.fsync = lambda _: None  # what a killed process has written, the kernel still has
    publish(Registry(Path(root, "template")).space("movies"), 0, "first")
    print(json.dumps([_kill_at_each(root, "staging", 6), _kill_at_each(root, "publishing", 1)]))  # noqa: T201


def _kill_at_each(root, phase, stride):
    def space_of(n):
        return Registry(Path(root, f"{phase}-{n}")).space("movies")

    def doomed(n):
        shutil.copytree(Path(root, "template"), Path(root, f"{phase}-{n}"))
        arm = functools.partial(kill_at, stride * n)
        if phase == "staging":
            arm()
            publish(space_of(n), 1, "doomed", before=lambda: os._exit(0))
        publish(space_of(n), 1, "doomed", before=arm)

    def rerun(n):
        space = space_of(n)
        latest = space.latest()
        _assert_whole(space, latest)
        publish(space, 1, "doomed")
        _assert_whole(space, 1)
        assert space.drafts() == []
        return latest

    return kill_each(doomed, rerun)


def kill_s3(root):
    """Kill a publisher before its n-th change to the bucket, for every n; then let it run again.

    Each n has a version of its own, six to a space. Prints, for each kill, whether readers saw the
    version before the second run.
    """

    def place(n):
        return Registry(root).space(f"movies-{n // 6}"), n % 6 + 1, f"doomed-{n}"

    def doomed(n):
        space, version, run_id = place(n)
        if version == 1:
            small(space, 0, "first")
        kill_at_request(n)
        small(Registry(root).space(space.name), version, run_id)

    def rerun(n):
        space, version, run_id = place(n)
        seen = space.versions()
        assert seen in (list(range(version)), list(range(version + 1))), seen
        assert verify(space, seen[-1]) == []
        small(space, version, run_id)
        assert space.versions() == list(range(version + 1))
        assert verify(space, version) == []
        assert space.drafts() == []
        return int(version in seen)

    print(json.dumps(kill_each(doomed, rerun)))  # noqa: T201


def small(space, version, run_id):
    """Publish a version that takes few requests: model, one part, a map, metrics and a report."""
    draft = space.draft(version, run_id=run_id)
    values = np.full((3, 2), version, np.float32)
    draft.write_model({}, {"w": values}, {})
    draft.write_table("item", [(pa.array(range(3)), values)])
    if version:
        eye = np.eye(2, dtype=np.float32)
        draft.write_backward(BackwardMap(space.name, version, version - 1, eye))
    draft.write_metrics({"recall50": version})
    draft.write_fit_report({"epochs": version})
    builders.publish(draft)


def crowd(root, publishers, versions):
    """Let many processes publish at once until there are enough versions.

    Prints the numbers that each believes to have published.
    """
    os.fsync = lambda _: None
    children = []
    for publisher in range(int(publishers)):
        answer, question = os.pipe()
        if not (pid := os.fork()):
            try:
                won = _publish_until(Registry(root).space("movies"), publisher, int(versions))
                os.write(question, json.dumps(won).encode())
                os._exit(0)
            except BaseException as error:  # noqa: BLE001
                sys.stderr.write(f"{error!r}\n")
                os._exit(1)
        os.close(question)
        children.append((pid, answer))
    won = []
    for pid, answer in children:
        with os.fdopen(answer) as pipe:
            won.append(json.loads(pipe.read() or "null"))
        os.waitpid(pid, 0)
    print(json.dumps(won))  # noqa: T201


def _publish_until(space, publisher, enough):
    won = []
    while (version := len(space.versions())) < enough:
        run_id = f"p{publisher}-v{version}"
        draft = space.draft(version, run_id=run_id)
        draft.write_model({}, {"w": np.full(3, publisher)}, {})
        try:
            builders.publish(draft, dim=3)
            won.append(version)
        except (VersionExistsError, RegistryError):
            draft.discard()
    return won


def _assert_whole(space, latest):
    assert space.versions() == list(range(latest + 1)), space.versions()
    for version in space.versions():
        assert verify(space, version) == [], verify(space, version)


if __name__ == "__main__":
    COMMANDS = {"race": race, "kill": kill, "kill_s3": kill_s3, "crowd": crowd}
    COMMANDS[sys.argv[1]](*sys.argv[2:])
