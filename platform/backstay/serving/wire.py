"""The three forms an answer can take, and how `Accept` chooses between them.

| media type | body |
|---|---|
| `application/json` | `{"space", "entity", "version", "source_version", "ids", "embeddings", "missing"}` |
| `application/vnd.apache.arrow.stream` | Arrow IPC stream of `id`, `embedding` (fixed-size list of float32); the other fields, `missing` as JSON, in the schema's metadata |
| `application/octet-stream` | the vectors alone: little-endian float32, row after row |

Ids that were not found have no row in any of them. The octet-stream describes itself in headers:
`Backstay-Shape: n,D`; `Backstay-Missing`, the number of ids not found; and, where that is not 0,
`Backstay-Found`: one bit per id asked for, 1 where it was found, the first id in the lowest bit of
the first byte, base64. A mask fits in a header however many ids are missing; their names may not.
"""  # noqa: E501

import base64
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, get_args

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

VERSION = "Backstay-Version"
SOURCE_VERSION = "Backstay-Source-Version"
SHAPE = "Backstay-Shape"
MISSING = "Backstay-Missing"
FOUND = "Backstay-Found"

MAX_IDS = 32_768
"""Most ids a request may be allowed: their mask takes 5.5 kB, and proxies refuse headers over 8."""


def negotiate(accept: str | None) -> MediaType | None:
    """The media type that an `Accept` header likes best (RFC 9110, 12.5.1); None if none will do.

    A range's quality is that of the most specific range that matches; of equals, the first in the
    table above wins. No header, or an empty one, accepts anything.
    """
    if not accept or not accept.strip():
        return JSON
    ranges = [_range(part) for part in accept.split(",") if part.strip()]
    qualities = {media_type: _quality(media_type, ranges) for media_type in MEDIA_TYPES}
    best = max(MEDIA_TYPES, key=qualities.__getitem__)
    return best if qualities[best] > 0 else None


def _range(text: str) -> tuple[str, float]:
    media_range, *parameters = (part.strip().lower() for part in text.split(";"))
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return media_range, min(max(float(value), 0.0), 1.0)
            except ValueError:
                return media_range, 0.0
    return media_range, 1.0


def _quality(media_type: str, ranges: list[tuple[str, float]]) -> float:
    for pattern in (media_type, media_type.partition("/")[0] + "/*", "*/*"):
        matching = [quality for media_range, quality in ranges if media_range == pattern]
        if matching:
            return max(matching)
    return 0.0


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
    """Body and headers of an answer to one id, which is there.

    As for many, but JSON has `id` and `embedding`, and the octet-stream is of shape `D`.
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
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Vectors (n, D) and the mask (asked,) of the ids found, out of an octet-stream answer.

    Raises ServiceError where headers and body do not fit together.
    """
    try:
        n, dim = (int(part) for part in headers[SHAPE].split(","))
        values = np.frombuffer(body, "<f4").reshape(n, dim)
        found = np.ones(asked, bool)
        if int(headers[MISSING]):
            packed = np.frombuffer(base64.b64decode(headers[FOUND], validate=True), np.uint8)
            found = np.unpackbits(packed, count=asked, bitorder="little").astype(bool)
    except (KeyError, ValueError) as error:
        raise _unfit(repr(error)) from error
    if np.count_nonzero(found) != n:
        raise _unfit(f"{n} vectors for {np.count_nonzero(found)} ids")
    return values.astype(np.float32, copy=False), found


def _unfit(why: str) -> ServiceError:
    return ServiceError(
        f"expected {BINARY} described by {SHAPE}, {MISSING} and {FOUND}; found an answer that does "
        f"not fit them ({why}). Is this a Backstay service of the same version?"
    )


def version_headers(found: "Found") -> dict[str, str]:
    """Which space an answer's vectors are in, and whose table they came from."""
    return {VERSION: str(found.version), SOURCE_VERSION: str(found.source_version)}


def dump_json(value: Any) -> bytes:
    """JSON, numpy arrays included."""
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)


def _headers(found: "Found", media_type: MediaType) -> dict[str, str]:
    return {"Content-Type": media_type, "Vary": "Accept", **version_headers(found)}


def _about(found: "Found") -> dict[str, Any]:
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
    # not large_string, which fewer readers know; no answer has 2 GiB of ids
    ids = ids.cast(pa.string()) if ids.type == pa.large_string() else ids
    batch = pa.record_batch({"id": ids, "embedding": embedding}).replace_schema_metadata(about)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return bytes(sink.getvalue())


def _little_endian(values: npt.NDArray[np.float32]) -> bytes:
    return values.astype("<f4", copy=False).tobytes()
