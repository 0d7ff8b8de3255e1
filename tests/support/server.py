"""The look-up service without Ray, in a process of its own.

Run as `python -m tests.support.server REGISTRY CACHE REFRESH_SECONDS`; it prints its URL and serves
until its standard input ends.
"""

import sys

from backstay.serving.app import build_app
from backstay.serving.lookup import Lookup
from tests.support.served import listening

if __name__ == "__main__":
    registry, cache, seconds = sys.argv[1:]
    with Lookup(registry, cache=cache) as lookup:
        lookup.watch(seconds=float(seconds))
        with listening(build_app(lookup, max_ids=100, replica="one")) as url:
            print(url, flush=True)  # noqa: T201
            sys.stdin.read()
