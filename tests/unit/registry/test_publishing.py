"""Publishing by processes that race and processes that die."""

import json
import subprocess

from backstay.registry.store import Registry
from backstay.registry.verify import verify
from tests.support.processes import environment, start_python


def _start(*arguments, module="publisher", **variables):
    return start_python(
        *("-m", f"tests.support.{module}", *arguments),
        env=environment(**variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _finish(process):
    out, errors = process.communicate(timeout=400)
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
        assert len(space.draft(0, run_id=loser).staged) == 8


def test_a_publisher_killed_anywhere_leaves_no_half_and_finishes_when_run_again(tmp_path):
    staging, publishing = _finish(_start("kill", tmp_path))
    assert len(staging) > 5
    assert set(staging) == {0}
    assert len(publishing) > 20
    assert set(publishing) == {0, 1}
    assert publishing == sorted(publishing)  # once there, a version never goes away again


def test_a_delta_killed_at_its_publication_or_compaction_is_read_whole(tmp_path):
    published, compacted = _finish(_start(tmp_path, module="killed_deltas"))
    for seen in (published, compacted):
        assert len(seen) > 20
        assert set(seen) == {0, 1}
        assert seen == sorted(seen)


def test_a_delta_killed_at_any_change_to_a_bucket_is_read_whole(s3):
    root = f"{s3.bucket()}/kills"
    published, compacted = _finish(_start(root, module="killed_deltas", **s3.environment))
    assert min(len(published), len(compacted)) > 4
    for seen in (published, compacted):
        assert set(seen) == {0, 1}
        assert seen == sorted(seen)


def test_a_publisher_killed_at_any_change_to_a_bucket_leaves_the_old_or_the_new_state(s3):
    published = _finish(_start("kill_s3", f"{s3.bucket()}/registry", **s3.environment))
    assert len(published) > 20
    assert set(published) == {0, 1}
    assert published == sorted(published)


def test_of_fifty_publishers_each_version_has_exactly_one(tmp_path):
    believed = _finish(_start("crowd", tmp_path, 50, 20))
    assert None not in believed
    assert sorted(version for won in believed for version in won) == list(range(20))
    space = Registry(tmp_path).space("movies")
    assert space.versions() == list(range(20))
    for publisher, won in enumerate(believed):
        for version in won:
            assert space.manifest(version).run_id == f"p{publisher}-v{version}"
    assert all(verify(space, version) == [] for version in space.versions())
