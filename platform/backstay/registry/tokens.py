"""Access tokens of the look-up service: who may ask for what.

<root>/.tokens/<id>/<n>.json            the highest n is in force

A token is `bst_<id>_<secret>`. The registry holds its SHA-256, never the secret: 256 random bits
can't be guessed from a hash, so that a slow password hash would add nothing but time.
"""

import hashlib
import hmac
import logging
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Literal, get_args

from pydantic import TypeAdapter

from backstay.errors import BackstayError, NotFoundError, RegistryError, UsageError
from backstay.registry.changes import change_token, renew_markers
from backstay.registry.manifest import check_name, now
from backstay.registry.records import Records, author
from backstay.storage.files import Files

_log = logging.getLogger("backstay.registry")

Verb = Literal["lookup", "describe", "metrics"]

VERBS: tuple[Verb, ...] = get_args(Verb)
"""What a token can allow: vectors; spaces, versions and the status page; metrics."""

_FOLDER = ".tokens"  # no space can have this name
_TOKEN = re.compile(r"bst_([0-9a-f]{12})_[A-Za-z0-9_-]{43}")
_TIME = "%Y-%m-%dT%H:%M:%SZ"


@dataclass(frozen=True, kw_only=True)
class Token:
    """One record of a token."""

    id: str
    n: int
    state: Literal["active", "revoked"]
    name: str  # whose it is, for people
    spaces: tuple[str, ...] | None  # the spaces it may read; None: all
    verbs: tuple[Verb, ...]
    consumer: str | None  # the contract whose version is the default; None: no contract
    expires: str | None  # UTC, ISO 8601
    sha256: str  # of the whole token
    who: str  # wrote this record
    when: str  # UTC, ISO 8601

    def allows(self, verb: Verb, space: str | None = None) -> bool:
        """Whether the token's scope holds this verb, on this space where one is named."""
        return verb in self.verbs and (space is None or self.spaces is None or space in self.spaces)

    def is_valid(self, *, at: str | None = None) -> bool:
        """Whether it is neither revoked nor expired, `at` a UTC time or now."""
        # Times of one format sort like the moments that they name.
        return self.state == "active" and (self.expires is None or (at or now()) < self.expires)


_token: TypeAdapter[Token] = TypeAdapter(Token)


@dataclass(frozen=True, kw_only=True)
class TokenSet:
    """All tokens of a registry at one moment; revoked and expired ones too."""

    tokens: tuple[Token, ...] = ()
    damaged: Mapping[str, str] = field(default_factory=dict)  # id -> why it can't be read

    @property
    def any_made(self) -> bool:
        """Whether a token was ever made: revoking the last one opens nothing."""
        return bool(self.tokens or self.damaged)

    def valid(self) -> list[Token]:
        """The tokens that are neither revoked nor expired now."""
        return [token for token in self.tokens if token.is_valid()]


def create(
    files: Files,
    name: str,
    *,
    spaces: Iterable[str] | None = None,
    verbs: Iterable[str] = VERBS,
    consumer: str | None = None,
    days: float | None = None,
) -> tuple[Token, str]:
    """Make a token; return its record, and the token itself, which nobody can read again.

    Args:
        files: The registry's files.
        name: Whose token it is.
        spaces: The spaces it may read; None: all, those to come too.
        verbs: What it allows, of `VERBS`.
        consumer: The consumer that the bearer is.
        days: It expires after so many days; None: never.

    Raises:
        UsageError: A name or verb that there can't be, or a time that isn't in the future.
    """
    scope = None if spaces is None else tuple(check_name(space, what="a space") for space in spaces)
    if scope == ():
        raise UsageError("expected at least one space, or None for all; found none.")
    id_ = secrets.token_hex(6)
    text = f"bst_{id_}_{secrets.token_urlsafe(32)}"
    token = Token(
        id=id_,
        n=0,
        state="active",
        name=check_name(name, what="the owner of a token"),
        spaces=scope,
        verbs=_checked(verbs),
        consumer=consumer and check_name(consumer, what="a consumer"),
        expires=None if days is None else _in_days(days),
        sha256=token_hash(text),
        who=author(),
        when=now(),
    )
    if not _records(files, id_).append(0, asdict(token)):
        raise RegistryError(f"there is a token {id_} already. Repeat the command.")
    renew_markers(files, _FOLDER)
    _log.info("made token %s for %s", id_, name)
    return token, text


def revoke(files: Files, id_: str) -> Token:
    """End a token for ever; a revoked one stays as it is. NotFoundError where there is none."""
    token = _read(files, id_)
    if token is None:
        known = ", ".join(token.id for token in tokens(files)) or "none"
        raise NotFoundError(f"there is no token {id_} (tokens: {known}). Correct the id.")
    if token.state == "active":
        token = replace(token, n=token.n + 1, state="revoked", who=author(), when=now())
        # If someone else revoked it at the same moment, that record is as good.
        _records(files, id_).append(token.n, asdict(token))
        _log.info("revoked token %s of %s", id_, token.name)
    renew_markers(files, _FOLDER)  # also for a process that was killed before it could
    return token


def tokens(files: Files) -> list[Token]:
    """All tokens, oldest first; revoked and expired ones too."""
    found = (_read(files, id_) for id_ in files.folders(_FOLDER))
    return sorted((token for token in found if token), key=lambda token: (token.when, token.id))


def read_tokens(files: Files) -> TokenSet:
    """All tokens; a record that can't be read disables its token alone. OSError: none can be."""
    found, damaged = [], {}
    for id_ in files.folders(_FOLDER):
        try:
            token = _read(files, id_)
        except BackstayError as error:
            damaged[id_] = str(error)
            continue
        if token:
            found.append(token)
        else:
            damaged[id_] = f"expected a record of token {id_} in its folder, found none."
    return TokenSet(tokens=tuple(found), damaged=damaged)


def tokens_change(files: Files) -> str | None:
    """A text that differs from the one before if a token was made or revoked; one request."""
    return change_token(files, _FOLDER)


def token_id(text: str) -> str | None:
    """The id within a token; None where the text has not the form of one."""
    match = _TOKEN.fullmatch(text)
    return match[1] if match else None


def token_hash(text: str) -> str:
    """The hash that the registry holds of a token, hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


def matches(token: Token, text: str) -> bool:
    """Whether `text` is this token; takes the same time for every text."""
    return hmac.compare_digest(token.sha256, token_hash(text))


def _read(files: Files, id_: str) -> Token | None:
    token = _records(files, check_name(id_, what="a token")).last()
    return token if token and token.id == id_ else None


def _records(files: Files, id_: str) -> Records[Token]:
    return Records(files, f"{_FOLDER}/{id_}", _token)


def _checked(verbs: Iterable[str]) -> tuple[Verb, ...]:
    given = set(verbs)
    if not given or given - set(VERBS):
        raise UsageError(
            f"a token allows one or more of {', '.join(VERBS)}; found "
            f"{', '.join(sorted(given)) or 'none'}."
        )
    return tuple(verb for verb in VERBS if verb in given)


def _in_days(days: float) -> str:
    if not days > 0:
        raise UsageError(f"a token expires after more than 0 days; found {days:g}.")
    try:
        return (datetime.now(UTC) + timedelta(days=days)).strftime(_TIME)
    except OverflowError as error:
        raise UsageError(
            f"a token expires before the year 10000; found {days:g} days. Leave it out: never."
        ) from error
