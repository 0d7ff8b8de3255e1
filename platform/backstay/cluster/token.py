"""The token that a cluster's nodes, and the commands that use the cluster, share.

Ray refuses every request without it once RAY_AUTH_MODE=token is set. Ray reads the token from
RAY_AUTH_TOKEN, else from the file in RAY_AUTH_TOKEN_PATH, else from ~/.ray/auth_token.
"""

import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from backstay.errors import UsageError

_BYTES = 32  # as many as in Ray's own tokens


@dataclass(frozen=True, kw_only=True)
class TokenFile:
    """The file with the token of a cluster."""

    path: str
    made: bool  # by this call; otherwise the file was there


def token_path() -> Path:
    """The file that Ray reads the token from."""
    given = os.environ.get("RAY_AUTH_TOKEN_PATH")
    return Path(given) if given else Path.home() / ".ray" / "auth_token"


def make_token(*, renew: bool = False) -> TokenFile:
    """Make the token file, which only its owner may read. Keep the one that is there.

    With `renew`, replace the token. A running cluster keeps the token that it started with.
    """
    if os.environ.get("RAY_AUTH_TOKEN"):
        raise UsageError(
            "RAY_AUTH_TOKEN is set, and Ray prefers it to any file; unset it to use a token file."
        )
    path = token_path()
    if not renew and path.exists():
        _check(path)
        return TokenFile(path=str(path), made=False)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    with open(fresh, "w", encoding="ascii", opener=_private) as file:
        file.write(secrets.token_hex(_BYTES))
    if renew:
        fresh.replace(path)
        return TokenFile(path=str(path), made=True)
    try:
        path.hardlink_to(fresh)  # fails if another process made the file meanwhile
    except FileExistsError:
        return TokenFile(path=str(path), made=False)
    finally:
        fresh.unlink()
    return TokenFile(path=str(path), made=True)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_EXCL, 0o600)


def _check(path: Path) -> None:
    if not path.read_text(encoding="utf-8").strip():
        raise UsageError(f"expected a token in {path}, found an empty file; --renew makes one.")
    if path.stat().st_mode & 0o077:
        raise UsageError(
            f"expected {path} to be readable by its owner only, found mode "
            f"{path.stat().st_mode & 0o777:o}; run `chmod 600 {path}`, or --renew if somebody "
            "may have read it."
        )
