"""The certificate that the service shows to its clients."""

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from backstay.errors import UsageError


@dataclass(frozen=True)
class Certificate:
    """Two files in PEM: the certificate with its chain, and its private key."""

    cert: Path
    key: Path

    @classmethod
    def of(cls, cert: str | Path | None, key: str | Path | None) -> Self | None:
        """The certificate in these files; None without both.

        Raises UsageError if one is missing, they can't be read, or they don't fit together.
        """
        if cert is None and key is None:
            return None
        if cert is None or key is None:
            given, missing = ("--tls-key", "--tls-cert") if cert is None else (
                "--tls-cert", "--tls-key")  # fmt: skip
            raise UsageError(
                f"expected {missing} with {given}, found {given} alone. Give both files; one file "
                "that holds both is given twice."
            )
        found = cls(Path(cert).absolute(), Path(key).absolute())
        try:
            # An encrypted key would otherwise ask for its password on the terminal.
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(
                found.cert, found.key, password=""
            )
        except (OSError, ValueError) as error:  # SSLError included
            raise UsageError(
                f"expected a certificate in {cert} and its private key, without a password, in "
                f"{key}, both in PEM; they can't be loaded ({error})."
            ) from error
        return found
