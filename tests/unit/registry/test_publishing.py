"""Publishing by processes that race and processes that die."""

import json
import subprocess

from backstay.registry.store import Registry
from backstay.registry.verify import verify
from tests.support.processes import start_python


def _start(*arguments):
    return start_python(
        *("-m", "tests.support.publisher", *arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _finish(process):
    out, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return json.loads(out)


def test_of_two_racing_processes_exactly_one_publishes(tmp_path):
    rounds = 20
    racers = {"a": "bb", "bb": "a"}
    processes = [_start("race", tmp_path, run, rival, rounds) for run, rival in racers.items()]
    a_won, b_won = (_finish(process) for process in processes)
    assert [a != b for a, b in zip(a_won, b_won, strict=True)] == [True] * rounds

    for n, won in enumerate(a_won):
        space = Registry(tmp_path).space(f"space-{n}")
        winner, loser = ("a", "bb") if won else ("bb", "a")
        assert space.manifest(0).run_id == winner
        assert space.metrics(0) == {"recall50": len(winner)}
        assert verify(space, 0) == []
        assert [draft.run_id for draft in space.drafts()] == [loser]
        assert len(space.draft(0, run_id=loser).staged) == 6


def test_a_publisher_killed_anywhere_leaves_no_half_and_finishes_when_run_again(tmp_path):
    staging, publishing = _finish(_start("kill", tmp_path))
    assert len(staging) > 5
    assert set(staging) == {0}
    assert len(publishing) > 20
    assert set(publishing) == {0, 1}
    assert publishing == sorted(publishing)  # once there, a version never goes away again
