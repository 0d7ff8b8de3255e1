"""The registry's commands: what they print and refuse."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from backstay.cli import housekeeping, main
from tests.support.builders import fill, publish, stage


@pytest.fixture
def run(tmp_path):
    """Run a command on the space `movies` of the registry in `tmp_path`."""

    def run(verb, *arguments):
        where = ["--registry", str(tmp_path / "registry"), "--space", "movies"]
        return CliRunner().invoke(main, [verb, *where, *map(str, arguments)])

    return run


def _edit(space, version, **changes):
    path = space.path(version, "manifest.json")
    raw = {**json.loads(space.files.read(path)), **changes}
    space.files.write(path, json.dumps(raw).encode())


def test_a_version_of_a_newer_format_is_listed_with_the_reason(local_space, run):
    fill(local_space, 3, 4, 5)
    _edit(local_space, 1, format=99)
    rows = json.loads(run("versions", "--json").stdout)
    assert [row["version"] for row in rows] == [0, 1, 2]
    assert "reads up to 3. Upgrade" in rows[1]["unreadable"]
    assert [rows[n]["dim"] for n in (0, 2)] == [3, 5]

    result = run("verify", "--json")
    assert result.exit_code == 1
    problems = json.loads(result.stdout)["problems"]
    assert {(p["version"], p["kind"]) for p in problems} == {(1, "unreadable"), (2, "parent")}
    assert run("verify", 0).exit_code == 0


@pytest.mark.parametrize("uri", ["memory://nowhere", "missing"])
def test_a_registry_that_does_not_exist_is_said_not_to_exist(uri, tmp_path):
    uri = uri if "://" in uri else tmp_path / uri
    for verb in ("versions", "verify"):
        result = CliRunner().invoke(main, [verb, "--registry", str(uri), "--space", "movies"])
        assert result.exit_code == 1
        assert "found no" in result.stderr
        assert "no published version" not in result.stderr


def test_escape_sequences_of_stored_metadata_do_not_reach_the_terminal(local_space, run, tmp_path):
    evil = "\x1b]0;owned\x07\x9b2J\u202e"
    draft = local_space.draft(0, run_id="r")
    stage(draft)
    publish(draft, method=f"bc{evil}", config={evil: evil}, dataset_name=evil)
    for verb, *more in (["versions"], ["show", 0], ["versions", "--json"], ["show", 0, "--json"]):
        result = run(verb, *more)
        assert result.exit_code == 0
        assert not set(evil) - set("]0;owned2J") & set(result.output), verb
        assert r"\x1b]0;" in result.output or r"\u001b]0;" in result.output

    _edit(local_space, 0, created=evil)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array([1.0] * 4, pa.float32()), 4)
    table = pa.table({"id": [1], "embedding": vectors})
    labels = {"backstay.space": f"movies{evil}", "backstay.version": "0"}
    pq.write_table(table.replace_schema_metadata(labels), tmp_path / "t.parquet")
    result = run("convert", "--from", 1, "--to", 0, "--input", tmp_path / "t.parquet",
                 "--output", tmp_path / "out")  # fmt: skip
    assert result.exit_code == 1
    assert not set(evil) - set("]0;owned2J") & set(result.output)


def test_retire_asks_on_a_terminal_and_removes_nothing_without_a_yes(
    local_space, tmp_path, monkeypatch
):
    fill(local_space, 3, 4)
    monkeypatch.setattr(housekeeping, "_on_terminal", lambda: True)
    words = ["retire", "--registry", str(tmp_path / "registry"), "--space", "movies", "0"]
    for typed, code, message in (("n\n", 1, "Nothing is removed"), ("", 130, "interrupted")):
        result = CliRunner().invoke(main, words, input=typed)
        assert result.exit_code == code
        assert "This can't be undone. [y/N]" in result.stderr
        assert message in result.stderr
        assert local_space.retired(0) is None
    latest = CliRunner().invoke(main, [*words[:-1], "1"], input="y\n")
    assert "[y/N]" not in latest.output  # refused before it asks
    assert CliRunner().invoke(main, [*words, "--yes"]).exit_code == 0
    assert local_space.retired(0)


def test_messages_about_retired_versions_name_commands_not_python(local_space, run):
    fill(local_space, 3, 4)
    assert run("promote", 0).exit_code == run("promote", 1).exit_code == 0
    refused = run("retire", 0)
    assert refused.exit_code == 1
    assert run("retire", 0, "--force").exit_code == 0
    again = run("retire", 0, "--json")
    assert json.loads(again.stdout)["freed"] == 0
    gone = run("compact", 0)
    assert "backstay convert --registry" in gone.stderr
    for result in (refused, again, gone):
        assert "force=" not in result.output
        assert "table(" not in result.output
