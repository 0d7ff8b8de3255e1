"""Compression of answers: `Accept-Encoding` chooses zstd or gzip."""

from functools import lru_cache
from typing import Literal

import pyarrow as pa

from backstay.serving.accept import quality

Encoding = Literal["zstd", "gzip"]

MIN_BYTES = 1024
"""Smaller bodies are sent as they are."""

_CODECS: dict[Encoding, tuple[str, int]] = {"zstd": ("zstd", 1), "gzip": ("gzip", 1)}  # levels


@lru_cache(maxsize=256)
def negotiate(accept_encoding: str) -> Encoding | None:
    """The encoding that an `Accept-Encoding` header prefers (RFC 9110, 12.5.3); None: as it is.

    zstd wins a tie. `*` stands for zstd, unless the header names zstd. A malformed quality counts
    as 0.
    """
    qualities: dict[str, float] = {}
    for part in accept_encoding.lower().split(","):
        name, *parameters = (piece.strip() for piece in part.split(";"))
        wanted = 1.0
        for parameter in parameters:
            key, _, value = parameter.partition("=")
            if key.strip() == "q":
                wanted = quality(value.strip())
        qualities[name] = wanted
    qualities.setdefault("zstd", qualities.get("*", 0.0))
    best = max(_CODECS, key=lambda encoding: qualities.get(encoding, 0.0))
    wanted = qualities.get(best, 0.0)
    return best if wanted > 0 and wanted >= qualities.get("identity", 0.0) else None


def compress(body: bytes | memoryview, encoding: Encoding) -> bytes:
    """A body in this encoding, at the fastest level."""
    codec, level = _CODECS[encoding]
    compressed: bytes = pa.Codec(codec, compression_level=level).compress(body, asbytes=True)
    return compressed
