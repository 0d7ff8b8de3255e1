"""The three media types of an answer, and how `Accept` chooses between them.

| media type | body |
|---|---|
| `application/json` | `{"space", "entity", "version", "source_version", "ids", "embeddings", "missing"}` |
| `application/vnd.apache.arrow.stream` | Arrow IPC stream of `id`, `embedding` (fixed-size list of float32); the other fields, `missing` as JSON, in the schema's metadata |
| `application/octet-stream` | only the vectors: little-endian float32, row after row |

An id that was not found has no row. The headers of an octet-stream describe it: `Backstay-Shape: n,D`;
`Backstay-Missing`, the number of ids not found; and, unless that is 0, `Backstay-Found`: a base64
mask with one bit per requested id, 1 if it was found. The first id is the lowest bit of the first
byte. The mask fits in a header for any number of missing ids; the ids themselves might not.
"""  # noqa: E501

import base64
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, get_args

import mimeparse
import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa

from backstay.errors import ServiceError

if TYPE_CHECKING:
    from backstay.serving.lookup import Found

MediaType = Literal[
    "application/json", "application/vnd.apache.arrow.stream", "application/octet-stream"
]
MEDIA_TYPES: tuple[MediaType, ...] = get_args(MediaType)
JSON, ARROW, BINARY = MEDIA_TYPES

HALF = f"{BINARY};dtype=float16"
"""As BINARY, with numbers in float16."""

VERSION = "Backstay-Version"
SOURCE_VERSION = "Backstay-Source-Version"
FINGERPRINT = "Backstay-Fingerprint"
SOURCE_FINGERPRINT = "Backstay-Source-Fingerprint"
CONSUMER = "Backstay-Consumer"
REQUEST_ID = "Backstay-Request-Id"
SHAPE = "Backstay-Shape"
MISSING = "Backstay-Missing"
FOUND = "Backstay-Found"

MAX_IDS = 32_768
"""Upper limit for `max_ids`: the mask takes 5.5 kB, and proxies refuse headers over 8 kB."""


def negotiate(accept: str | None) -> MediaType | None:
    """The media type that an `Accept` header prefers (RFC 9110, 12.5.1); None if it allows none.

    A media type has the quality of the most specific range that matches it. The first in the table
    above wins a tie. A missing or empty header allows all; a malformed range is ignored.
    """
    if not accept or not accept.strip():
        return JSON
    ranges = [parsed for part in accept.lower().split(",") if (parsed := _range(part))]
    qualities = {each: mimeparse.quality_parsed(each, ranges) for each in MEDIA_TYPES}
    best = max(MEDIA_TYPES, key=qualities.__getitem__)
    return best if qualities[best] > 0 else None


def _range(text: str) -> tuple[str, str, dict[str, str]] | None:
    """Type, subtype and parameters with `q` from 0 to 1; a bad `q` counts as 0. None: no range."""
    try:
        kind, subtype, parameters = mimeparse.parse_mime_type(text.strip())
    except mimeparse.MimeTypeParseException:
        return None
    try:
        quality = min(max(float(parameters.get("q", 1)), 0.0), 1.0)
    except ValueError:
        quality = 0.0
    return kind, subtype, {**parameters, "q": str(quality)}


def encode(found: "Found", media_type: MediaType) -> tuple[bytes, dict[str, str]]:
    """Body and headers of an answer to many ids."""
    headers = _headers(found, media_type)
    if media_type == JSON:
        body = _about(found) | {"ids": found.found_ids.to_pylist(), "embeddings": found.values}
        body["missing"] = found.missing.to_pylist()
        return dump_json(body), headers
    if media_type == ARROW:
        return _arrow(found), headers
    headers[SHAPE] = f"{found.values.shape[0]},{found.values.shape[1]}"
    absent = int(np.count_nonzero(~found.found))
    headers[MISSING] = str(absent)
    if absent:
        mask = np.packbits(found.found, bitorder="little")
        headers[FOUND] = base64.b64encode(mask.tobytes()).decode()
    return _little_endian(found.values), headers


def encode_one(found: "Found", media_type: MediaType) -> tuple[bytes, dict[str, str]]:
    """Body and headers of an answer to one id, which was found.

    The same as for many ids, but JSON has `id` and `embedding`, and `Backstay-Shape` is `D`.
    """
    if media_type == ARROW:
        return encode(found, media_type)
    headers = _headers(found, media_type)
    if media_type == JSON:
        body = _about(found) | {"id": found.ids[0].as_py(), "embedding": found.values[0]}
        return dump_json(body), headers
    headers[SHAPE] = str(found.values.shape[1])
    return _little_endian(found.values), headers


def decode_binary(
    body: bytes, headers: Mapping[str, str], *, asked: int
) -> tuple[npt.NDArray[np.float32 | np.float16], npt.NDArray[np.bool_]]:
    """Decode an octet-stream answer: vectors (n, D), and the mask (asked,) of the ids found.

    Raises ServiceError if headers and body do not fit together.
    """
    try:
        n, dim = (int(part) for part in headers[SHAPE].split(","))
        half = headers.get("content-type", "").replace(" ", "").lower() == HALF
        values = np.frombuffer(body, "<f2" if half else "<f4").reshape(n, dim)
        found = np.ones(asked, bool)
        if int(headers[MISSING]):
            packed = np.frombuffer(base64.b64decode(headers[FOUND], validate=True), np.uint8)
            found = np.unpackbits(packed, count=asked, bitorder="little").astype(bool)
    except (KeyError, ValueError) as error:
        raise _inconsistent(repr(error)) from error
    if np.count_nonzero(found) != n:
        raise _inconsistent(f"{n} vectors for {np.count_nonzero(found)} ids")
    return values.astype(values.dtype.newbyteorder("="), copy=False), found


def _inconsistent(why: str) -> ServiceError:
    return ServiceError(
        f"expected {BINARY} described by {SHAPE}, {MISSING} and {FOUND}; found a body that does "
        f"not match these headers ({why}). Check that the URL is a Backstay service."
    )


def version_headers(found: "Found") -> dict[str, str]:
    """Version and fingerprint of the vectors, and of the table that they came from."""
    return {
        VERSION: str(found.version),
        SOURCE_VERSION: str(found.source_version),
        FINGERPRINT: found.fingerprint,
        SOURCE_FINGERPRINT: found.source_fingerprint,
    }


def dump_json(value: object) -> bytes:
    """Encode as JSON; numpy arrays become lists."""
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)


def _headers(found: "Found", media_type: MediaType) -> dict[str, str]:
    return {"Content-Type": media_type, "Vary": "Accept", **version_headers(found)}


def _about(found: "Found") -> dict[str, object]:
    return {
        "space": found.space,
        "entity": found.entity,
        "version": found.version,
        "source_version": found.source_version,
    }


def _arrow(found: "Found") -> bytes:
    flat = pa.array(np.ascontiguousarray(found.values).reshape(-1))
    embedding = pa.FixedSizeListArray.from_arrays(flat, found.values.shape[1])
    about = {name: str(value) for name, value in _about(found).items()}
    about["missing"] = orjson.dumps(found.missing.to_pylist()).decode()
    ids = found.found_ids
    # Fewer readers support large_string. No answer has 2 GiB of ids.
    ids = ids.cast(pa.string()) if ids.type == pa.large_string() else ids
    batch = pa.record_batch({"id": ids, "embedding": embedding}).replace_schema_metadata(about)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return bytes(sink.getvalue())


def _little_endian(values: npt.NDArray[np.float32]) -> bytes:
    return values.astype("<f4", copy=False).tobytes()
