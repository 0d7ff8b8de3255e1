"""Starts HAProxy for Ray Serve, which runs this script in HAProxy's place.

    python -I haproxy_launcher.py BINARY HOST PORT CERTIFICATE -db -f CONFIG …

Ray Serve 2.60 writes the configuration and has no options for six things, which this changes:

- Statistics and metrics listen on all interfaces. Here, the service's port is bound to HOST and
  every other port to 127.0.0.1.
- Clients can't use TLS. Here they must, unless CERTIFICATE is empty.
- A request that no replica can answer gets 500. Here it gets 503 and Retry-After: a look-up can
  always be asked again.
- A request beyond the limits gets 503 with a line of text. Here it gets a problem document.
- A HAProxy that has just started answers 404 until it has the list of replicas. Here that is 503.
- HAProxy outlives the process that started it. Here it ends with it.

It imports nothing of Backstay: it runs at each change of the replicas, and must be quick.
"""

import ctypes
import json
import os
import re
import signal
import sys
from pathlib import Path

_BIND = re.compile(r"^(\s*bind\s+)\S*:(\d+)", re.MULTILINE)
_ERROR_FILE = re.compile(r"^\s*errorfile\s+50\d\s+(\S+)", re.MULTILINE)
_NOT_FOUND = re.compile(r"^(\s*http-request) return status 404 .*$", re.MULTILINE)
_PR_SET_PDEATHSIG = 1  # <sys/prctl.h>

_FRONTEND = re.compile(r"^(\s*)bind\s+.*$", re.MULTILINE)


def _problem(kind: str, detail: str) -> str:
    return json.dumps(
        {
            "type": f"urn:backstay:problem:{kind}",
            "title": kind.capitalize(),
            "status": 503,
            "detail": detail,
            "instance": "",
        }
    )


BUSY = _problem(
    "overloaded",
    "the service answers as many requests as it may, and as many more wait. Try again in a second.",
)
"""The answer in place of Ray Serve's own for a request beyond the limits."""

_PROBLEM = _problem(
    "unavailable", "expected a replica that answers, found none. Try again in a second."
)
UNAVAILABLE = (
    "HTTP/1.1 503 Service Unavailable\r\n"
    "Content-Type: application/problem+json\r\n"
    "Retry-After: 1\r\n"
    f"Content-Length: {len(_PROBLEM)}\r\n"
    "\r\n"
    f"{_PROBLEM}"
)
"""What HAProxy answers where no replica does."""


def rebind(config: str, *, host: str, port: int, certificate: str = "") -> str:
    """The configuration with the port bound to the host, and every other one to the loopback.

    Where there is a certificate, the port takes TLS only.
    """
    tls = f' ssl crt "{certificate}" alpn h2,http/1.1' if certificate else ""

    def address(match: re.Match[str]) -> str:
        if int(match[2]) == port:
            return f"{match[1]}{host}:{match[2]}{tls}"
        return f"{match[1]}127.0.0.1:{match[2]}"

    return _BIND.sub(address, config)


def without_404(config: str) -> str:
    """The configuration with the answer for no replica in place of 404.

    The service takes every path, so HAProxy answers 404 only while it has no replica.
    """
    return _NOT_FOUND.sub(r"\1 deny deny_status 503", config)


def with_problems(config: str, *, port: int) -> str:
    """The configuration with a problem document in place of each 503 that is another text.

    The rule stands behind the `bind` of the service's port.
    """
    rule = (
        "http-response return status 503 content-type application/problem+json hdr Retry-After 1 "
        f"string '{BUSY}' if {{ status 503 }} "
        "!{ res.hdr(Content-Type) -m beg application/problem+json }"
    )

    def added(match: re.Match[str]) -> str:
        of_service = re.match(rf"\s*bind\s+\S*:{port}\b", match[0])
        return f"{match[0]}\n{match[1]}{rule}" if of_service else match[0]

    return _FRONTEND.sub(added, config)


def error_files(config: str) -> set[Path]:
    """The files with HAProxy's own answers 502, 503 and 504."""
    return {Path(name) for name in _ERROR_FILE.findall(config)}


def main() -> None:
    """Change the configuration and become HAProxy."""
    binary, host, port, certificate, *arguments = sys.argv[1:]
    path = Path(arguments[arguments.index("-f") + 1])
    config = path.read_text(encoding="utf-8")
    for answer in error_files(config):
        answer.write_text(UNAVAILABLE, encoding="utf-8", newline="")
    config = rebind(config, host=host, port=int(port), certificate=certificate)
    config = with_problems(without_404(config), port=int(port))
    path.write_text(config, encoding="utf-8")
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    os.execv(binary, [binary, *arguments])  # noqa: S606 (a path, not a shell's command)


if __name__ == "__main__":
    main()
