"""Aliases: what they point to, their history, and their commands."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from click.testing import CliRunner

from backstay.cli import main
from backstay.errors import CorruptError, NotFoundError, RegistryError, UsageError
from backstay.registry.aliases import aliases, history, promote, rollback
from tests.support.builders import fill


@pytest.fixture
def filled(space):
    fill(space, 3, 4, 5)
    return space


def test_an_alias_moves_and_its_history_stays(filled):
    assert filled.resolve() == filled.resolve("latest") == 2
    first = promote(filled, 0, alias="prod", why="first", who="ann")
    promote(filled, 2, why="recall +2 %", checks=[{"consumer": "ads", "verdict": "pass"}])
    assert aliases(filled) == {"prod": 2}
    assert filled.resolve() == filled.resolve("prod") == 2
    moves = history(filled, "prod")
    assert moves[0] == first
    assert [(move.n, move.before, move.to) for move in moves] == [(0, None, 0), (1, 0, 2)]
    assert (moves[0].who, moves[0].why) == ("ann", "first")
    assert moves[1].checks == ({"consumer": "ads", "verdict": "pass"},)
    stored = json.loads(filled.files.read("movies/aliases/prod/1.json"))
    assert (stored["from"], stored["to"]) == (0, 2)


def test_what_nobody_promoted_is_not_served_by_default(filled):
    promote(filled, 1)
    fill(filled, 6)
    assert filled.latest() == filled.resolve("latest") == 3
    assert filled.resolve() == 1
    assert filled.resolve("2") == filled.resolve(2) == 2


def test_promoting_twice_is_promoting_once(filled):
    assert promote(filled, 1) == promote(filled, 1)
    assert len(history(filled, "prod")) == 1


def test_a_rollback_goes_back_one_version_more_each_time(filled):
    for version in (0, 1, 2):
        promote(filled, version)
    assert rollback(filled, why="AUC fell").to == 1
    assert rollback(filled).to == 0
    with pytest.raises(RegistryError, match="has pointed to version 0 only"):
        rollback(filled)
    promote(filled, 2)
    assert rollback(filled).to == 0
    assert [move.action for move in history(filled, "prod")].count("rollback") == 3


def test_what_is_not_there_is_named(filled):
    with pytest.raises(NotFoundError, match="no version 7"):
        promote(filled, 7)
    with pytest.raises(NotFoundError, match=r"no alias stable \(aliases: none\).*backstay promote"):
        filled.resolve("stable")
    with pytest.raises(NotFoundError, match="no alias prod"):
        rollback(filled)
    with pytest.raises(NotFoundError, match="no version 9"):
        filled.resolve("9")


@pytest.mark.parametrize("name", ["latest", "3", "", "../x", "a b"])
def test_a_name_that_cannot_be_an_alias_is_refused(filled, name):
    with pytest.raises(UsageError):
        promote(filled, 0, alias=name)


def test_of_several_moves_at_once_none_is_lost(filled):
    def move(n):
        try:
            return promote(filled, n % 3, who=f"u{n}")
        except RegistryError:  # another thread was first
            return None

    with ThreadPoolExecutor(8) as pool:
        moved = [move for move in pool.map(move, range(24)) if move]
    moves = history(filled, "prod")
    assert [move.n for move in moves] == list(range(len(moves)))
    assert all(made in moves for made in moved)


def test_a_record_that_was_changed_moved_or_lost_is_refused(filled):
    for version in (0, 1, 2):
        promote(filled, version)
    files, path = filled.files, "movies/aliases/prod/2.json"
    good = files.read(path)
    for at in range(0, len(good), 7):
        bad = bytearray(good)
        bad[at] ^= 1
        files.write(path, bytes(bad))
        with pytest.raises(CorruptError):
            filled.resolve()
    files.write(path, files.read("movies/aliases/prod/1.json"))
    with pytest.raises(CorruptError, match="holds move 1 of prod"):
        filled.resolve("prod")
    files.write(path, good)
    files.remove("movies/aliases/prod/1.json")
    with pytest.raises(CorruptError, match="missing"):
        filled.resolve("prod")


@pytest.fixture
def run(local_space, tmp_path):
    fill(local_space, 3, 4)

    def run(verb, *words, **options):
        where = ["--registry", str(tmp_path / "registry")]
        return CliRunner().invoke(main, [verb, *where, *map(str, words)], **options)

    return run


@pytest.mark.parametrize("words", [["movies", 0], ["--space", "movies", 0]])
def test_promote_and_rollback_on_the_command_line(run, words):
    made = json.loads(run("promote", *words, "--why", "because", "--json").stdout)
    assert (made["alias"], made["to"], made["why"]) == ("prod", 0, "because")
    run("promote", "movies", 1)
    back = json.loads(run("rollback", *words[:-1], "--json").stdout)
    assert (back["before"], back["to"], back["action"]) == (1, 0, "rollback")
    rows = json.loads(run("versions", "--space", "movies", "--json").stdout)
    assert [row["aliases"] for row in rows] == [["prod"], []]
    shown = json.loads(run("show", "--space", "movies", 1, "--json").stdout)
    assert [move["to"] for move in shown["aliases"]] == [1, 0]
    tree = run("versions", "--space", "movies", "--tree").stdout
    assert tree.splitlines()[0].strip() == "movies"
    assert "0  bc-aligner, 3 dimensions  aliases: prod" in tree
    assert tree.index("1  bc-aligner") > tree.index("0  bc-aligner")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["promote", "movies"], "expected SPACE VERSION"),
        (["promote", "movies", "new"], "expected the number of a version"),
        (["promote", "movies", "0", "--alias", "latest"], "must be a name such as prod"),
        (["rollback"], "expected SPACE"),
    ],
)
def test_wrong_usage_of_the_commands_exits_2(run, words, message):
    result = run(*words)
    assert result.exit_code == 2
    assert message in result.stderr
