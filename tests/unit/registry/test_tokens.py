"""Access tokens: made once, hashed at rest, scoped, revoked for ever."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from backstay.cli import main
from backstay.errors import CorruptError, NotFoundError, UsageError
from backstay.registry.store import Registry
from backstay.registry.tokens import (
    VERBS,
    create,
    matches,
    revoke,
    token_id,
    tokens,
)


def run(*words: object) -> Result:
    return CliRunner().invoke(main, ["tokens", *map(str, words)])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "registry"


def test_the_secret_is_in_no_file(root):
    token, text = create(Registry(root).files, "ranking")
    assert token_id(text) == token.id
    secret = text.rpartition("_")[2].encode()
    stored = [path.read_bytes() for path in root.rglob("*") if path.is_file()]
    assert stored
    assert not any(secret in data or text.encode() in data for data in stored)


def test_a_token_matches_itself_alone(root):
    files = Registry(root).files
    (first, text), (second, other) = create(files, "ranking"), create(files, "ads")
    assert matches(first, text)
    assert matches(second, other)
    assert not matches(first, other)
    assert not matches(first, text[:-1])
    assert token_id(text[:-1]) is None
    assert token_id("Bearer " + text) is None


@pytest.mark.parametrize(
    ("scope", "verb", "space", "allowed"),
    [
        ({}, "lookup", "movies", True),
        ({}, "describe", None, True),
        ({"spaces": ["movies"]}, "lookup", "movies", True),
        ({"spaces": ["movies"]}, "lookup", "books", False),
        ({"spaces": ["movies"]}, "describe", None, True),
        ({"verbs": ["metrics"]}, "metrics", None, True),
        ({"verbs": ["metrics"]}, "lookup", "movies", False),
    ],
)
def test_a_scope_holds_spaces_and_verbs(root, scope, verb, space, allowed):
    token, _ = create(Registry(root).files, "ranking", **scope)
    assert token.allows(verb, space) is allowed


def test_a_token_is_no_space(root):
    create(Registry(root).files, "ranking")
    assert Registry(root).spaces() == []


def test_a_revoked_token_stays_revoked(root):
    files = Registry(root).files
    token, _ = create(files, "ranking")
    ended = revoke(files, token.id)
    assert not ended.is_valid()
    assert revoke(files, token.id) == ended
    assert tokens(files) == [ended]
    with pytest.raises(NotFoundError, match=token.id):
        revoke(files, "0" * 12)


def test_an_expired_token_is_not_valid(root):
    token, _ = create(Registry(root).files, "ranking", days=1)
    assert token.is_valid()
    assert token.expires
    assert not token.is_valid(at=token.expires)
    assert replace(token, expires=None).is_valid(at="9999-01-01T00:00:00Z")


@pytest.mark.parametrize(
    ("scope", "message"),
    [
        ({"days": 0}, "more than 0 days"),
        ({"days": float("nan")}, "more than 0 days"),
        ({"days": 1e12}, "year 10000"),
        ({"verbs": ["write"]}, "lookup, describe, metrics; found write"),
        ({"verbs": []}, "found none"),
        ({"spaces": ["../up"]}, "can't name a space"),
        ({"spaces": []}, "at least one space"),
        ({"consumer": "a/b"}, "can't name a consumer"),
    ],
)
def test_a_scope_that_there_can_not_be_is_refused(root, scope, message):
    with pytest.raises(UsageError, match=message):
        create(Registry(root).files, "ranking", **scope)
    assert not root.exists()


def test_a_widened_scope_is_found(root):
    files = Registry(root).files
    token, _ = create(files, "ranking", spaces=["movies"])
    path = root / ".tokens" / token.id / "0.json"
    path.write_text(path.read_text().replace("movies", "prices"))
    with pytest.raises(CorruptError, match=r"0\.json"):
        tokens(files)


def test_the_record_of_another_token_counts_for_none(root):
    files = Registry(root).files
    (strong, _), (weak, _) = create(files, "ops"), create(files, "guest", verbs=["metrics"])
    folder = root / ".tokens"
    (folder / weak.id / "0.json").write_bytes((folder / strong.id / "0.json").read_bytes())
    assert [token.id for token in tokens(files)] == [strong.id]


def test_the_command_line_makes_lists_and_revokes(root):
    made = run("add", "ranking", "--registry", root, "--space", "movies", "--days", 90, "--json")
    assert made.exit_code == 0, made.output
    answer = json.loads(made.stdout)
    assert token_id(answer["token"]) == answer["id"]
    listed = run("list", "--registry", root)
    assert answer["id"] in listed.stdout
    assert answer["token"] not in listed.stdout
    assert run("revoke", answer["id"], "--registry", root).exit_code == 0
    (after,) = json.loads(run("list", "--registry", root, "--json").stdout)
    assert (after["state"], after["spaces"], after["verbs"]) == ("revoked", ["movies"], [*VERBS])
    assert run("revoke", "nope", "--registry", root).exit_code == 1


def test_every_write_of_a_token_renews_the_marker(root):
    registry = Registry(root)
    token, _ = create(registry.files, "ranking")
    seen = [registry.change_token()]
    assert seen[0]
    for write in (
        lambda: create(registry.files, "ads"),
        lambda: revoke(registry.files, token.id),
        lambda: revoke(registry.files, token.id),  # the first may have been killed before
    ):
        write()
        assert registry.change_token() not in seen
        seen.append(registry.change_token())
    assert registry.spaces() == []
