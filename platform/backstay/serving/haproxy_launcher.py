"""Starts HAProxy for Ray Serve, which runs this script in HAProxy's place.

    python -I haproxy_launcher.py BINARY HOST PORT CERTIFICATE -db -f CONFIG …

Ray Serve 2.60 writes the configuration and has no options for five things, which this changes:

- Statistics and metrics listen on all interfaces. Here, the service's port is bound to HOST and
  every other port to 127.0.0.1.
- Clients can't use TLS. Here they must, unless CERTIFICATE is empty.
- A request that no replica can answer gets 500. Here it gets 503 and Retry-After: a look-up can
  always be asked again.
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

_PROBLEM = json.dumps(
    {
        "type": "urn:backstay:problem:unavailable",
        "title": "Unavailable",
        "status": 503,
        "detail": "expected a replica that answers, found none. Try again in a second.",
    }
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
    path.write_text(without_404(config), encoding="utf-8")
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    os.execv(binary, [binary, *arguments])  # noqa: S606 (a path, not a shell's command)


if __name__ == "__main__":
    main()
