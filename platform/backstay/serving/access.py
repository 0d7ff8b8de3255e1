"""Who may ask for what: each request's access token, checked before anything else.

A token comes as `Authorization: Bearer …`. Its record in the registry decides: the spaces and verbs
that it allows, and the consumer that asks. Nothing of a token goes into an answer or a log.
"""

from collections.abc import Collection
from typing import Literal

from starlette.datastructures import State
from starlette.types import Scope

from backstay.registry.tokens import Token, TokenSet, Verb, matches, token_id
from backstay.serving import wire
from backstay.serving.problems import Problem, retry
from backstay.serving.state import listed

Auth = Literal["required", "auto", "off"]
"""Whether requests need a token; `auto`: once a token was made in the registry."""

_TOKEN = "backstay.token"  # noqa: S105 - where the ASGI scope holds the record of the token
_OPEN = frozenset({"/healthz", "/readyz", "/docs", "/openapi.json"})
_OPEN_FOLDER = "/docs/assets/"
_MAX_BYTES = 4096  # of the header
_ENDED = {"revoked": "was revoked", "active": "has expired"}


class Access:
    """Checks the requests of one app; used in its event loop only.

    Args:
        state: Of the app: `auth`, and `lookup`, which has the tokens.
    """

    def __init__(self, state: State) -> None:
        self._state = state
        self._taken: TokenSet | None = None
        self._tokens: dict[str, Token] = {}  # by id
        self._nobody = Token(
            id="", n=0, state="revoked", name="", spaces=(), verbs=(), consumer=None,
            expires=None, sha256="0" * 64, who="", when="",
        )  # fmt: skip

    def missing(self) -> str | None:
        """Why nobody can be let in yet, if that is so."""
        lookup = self._state.lookup
        if self._state.auth == "off" or lookup is None or lookup.tokens is not None:
            return None
        return "the access tokens could not be read from the registry yet."

    def check(self, scope: Scope, verb: Verb | None, space: str | None) -> None:
        """Raise Problem 401 or 403 if the request's token does not allow it.

        Raises Problem 503 before tokens could be read. Notes in the scope whose token it is, for
        `consumer` and `visible`. Everybody may do what has no verb.
        """
        if self._state.auth == "off" or not self._required():
            return
        header = _authorization(scope)
        if verb is None:
            token = self._find(header)
            allowed = token is not None and token.is_valid() and token.allows("describe")
            scope[_TOKEN] = token if allowed else None
            return
        if (reason := self.missing()) is not None:
            raise Problem(503, f"{reason} Repeat the request.", kind="not-ready", headers=retry(2))
        token = self._find(header)
        if token is None:
            raise _unauthorized(
                "expected a token of this registry, found another one."
                if header
                else "expected an access token, found none."
            )
        if not token.is_valid():
            raise _unauthorized(f"the access token {_ENDED[token.state]}.")
        if not token.allows(verb, space):
            raise _forbidden(token, verb, space)
        if token.spaces and space and space not in self._state.lookup.spaces():
            # The look-up's own message lists spaces that this token may not know of.
            raise Problem(404, f"there is no space {space!r:.100} with a published version.")
        scope[_TOKEN] = token

    def _required(self) -> bool:
        """Whether this request needs a token; takes up tokens that were read meanwhile."""
        lookup = self._state.lookup
        if lookup is None:
            return False  # each route answers 503
        known: TokenSet | None = lookup.tokens
        if known is not self._taken:
            self._taken = known
            self._tokens = {token.id: token for token in known.tokens} if known else {}
        return self._state.auth == "required" or known is None or known.any_made

    def _find(self, header: bytes) -> Token | None:
        """The record of the token in an Authorization header."""
        scheme, _, text = header[:_MAX_BYTES].decode("latin-1").partition(" ")
        text = text.strip()
        id_ = token_id(text) if scheme.lower() == "bearer" else None
        token = self._tokens.get(id_ or "")
        # An unknown id takes as long as a known one.
        return token if matches(token or self._nobody, text) else None


def asked(scope: Scope) -> tuple[Verb | None, str | None]:
    """What a request asks for by its path, and of which space; no verb: what everybody may see."""
    path = scope["path"].removeprefix(scope.get("root_path", ""))
    if path in _OPEN or path.startswith(_OPEN_FOLDER):
        return None, None
    if path == "/metrics":
        return "metrics", None
    parts = path.split("/", 5)
    if parts[:3] != ["", "v1", "spaces"] or len(parts) < 4:  # noqa: PLR2004
        return "describe", None  # paths that there are not, too
    return ("lookup" if len(parts) == 6 else "describe"), parts[3]  # noqa: PLR2004


def consumer(scope: Scope, named: str | None) -> str | None:
    """The asking consumer: that of the token, or the one `named` in a header without tokens.

    Raises Problem 403 if the header names another consumer than the token: its vectors could be of
    another version than the one that the caller expects.
    """
    token: Token | None = scope.get(_TOKEN)
    if token is None or named in {None, token.consumer}:
        return token.consumer if token else named
    raise Problem(
        403,
        f"{wire.CONSUMER} must name the consumer of the token, which is "
        f"{token.consumer or 'none'}; found {named}. Leave the header out, or make a token with "
        f"--consumer {named}.",
    )


def visible(scope: Scope, spaces: Collection[str]) -> list[str]:
    """Those of the spaces that the asker may know of."""
    if _TOKEN not in scope:
        return list(spaces)
    token: Token | None = scope[_TOKEN]
    return [space for space in spaces if token and token.allows("describe", space)]


def _authorization(scope: Scope) -> bytes:
    """The header, or nothing; Problem 400 if it was sent twice."""
    found: list[bytes] = [value for name, value in scope["headers"] if name == b"authorization"]
    if len(found) > 1:
        raise Problem(400, f"the header Authorization must be sent once; found {len(found)}.")
    return found[0] if found else b""


def _unauthorized(found: str) -> Problem:
    return Problem(
        401,
        f"{found} Send `Authorization: Bearer` with a token; `backstay tokens add` makes one.",
        headers={"WWW-Authenticate": "Bearer"},
    )


def _forbidden(token: Token, verb: Verb, space: str | None) -> Problem:
    spaces = "all spaces" if token.spaces is None else f"the spaces {listed(token.spaces)}"
    asked = f"{verb} on space {space!r:.100}" if space else verb
    return Problem(
        403,
        f"the token allows {', '.join(token.verbs)} on {spaces}; asked for {asked}. Ask for a "
        "token that allows it.",
    )
