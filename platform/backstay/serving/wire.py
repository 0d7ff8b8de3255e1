"""The formats of an answer.

| media type | body |
|---|---|
| `application/json` | `{"space", "entity", "version", "source_version", "ids", "embeddings", "missing"}` |
| `application/vnd.apache.arrow.stream` | Arrow IPC stream of `id`, `embedding` (fixed-size list of float32); the other fields in the schema's metadata, with the keys of a stored table and `backstay.source_version`, `backstay.source_fingerprint`, `backstay.missing` (JSON) |
| `application/octet-stream` | only the vectors: little-endian float32, row after row |

The last two take the parameter `dtype=float16`, which halves the size of an answer.

An id that was not found has no row. The headers of an octet-stream describe it: `Backstay-Shape: n,D`;
`Backstay-Missing`, the number of ids not found; and, unless that is 0, `Backstay-Found`: a base64
mask with one bit per requested id, 1 if it was found. The first id is the lowest bit of the first
byte. The mask fits in a header for any number of missing ids; the ids themselves might not.

If shards are lost and the request allows a partial answer, the ids that they hold have no row, and
are not among the missing ones. `Backstay-Unanswered` is their number. JSON lists them in
`unanswered`, Arrow in `backstay.unanswered`, and `Backstay-Unanswered-Mask` is a mask like that of
`Backstay-Found`, 1 for those ids.
"""  # noqa: E501

import base64
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa

from backstay.errors import ServiceError, UsageError
from backstay.registry.table_layout import FloatType, record_batch, table_schema

if TYPE_CHECKING:
    from backstay.serving.found import Found

MediaType = Literal[
    "application/json", "application/vnd.apache.arrow.stream", "application/octet-stream"
]
MEDIA_TYPES: tuple[MediaType, ...] = get_args(MediaType)
JSON, ARROW, BINARY = MEDIA_TYPES

HALF = f"{BINARY};dtype=float16"
"""As BINARY, with numbers in float16."""


class Format(NamedTuple):
    """What a client accepts."""

    media_type: MediaType
    dtype: FloatType

    @property
    def content_type(self) -> str:
        """The value of Content-Type."""
        return self.media_type + (";dtype=float16" if self.dtype == "float16" else "")


FORMATS = (
    *(Format(media_type, "float32") for media_type in MEDIA_TYPES),
    Format(ARROW, "float16"),
    Format(BINARY, "float16"),
)

VERSION = "Backstay-Version"
SOURCE_VERSION = "Backstay-Source-Version"
FINGERPRINT = "Backstay-Fingerprint"
SOURCE_FINGERPRINT = "Backstay-Source-Fingerprint"
CONSUMER = "Backstay-Consumer"
REQUEST_ID = "Backstay-Request-Id"
SHAPE = "Backstay-Shape"
MISSING = "Backstay-Missing"
FOUND = "Backstay-Found"
PARTIAL = "Backstay-Partial"
UNANSWERED = "Backstay-Unanswered"
UNANSWERED_MASK = "Backstay-Unanswered-Mask"

PROBLEM = "application/problem+json"
"""The media type of errors."""

MAX_IDS = 32_768
"""Upper limit for `max_ids`: the mask takes 5.5 kB, and proxies refuse headers over 8 kB."""

MAX_IDS_SHARDED = MAX_IDS // 2
"""The same for a service with shards, whose answers may have two masks."""


VARY = f"Accept, Accept-Encoding, {CONSUMER}"
"""The request headers that an answer with vectors depends on."""


def encode(found: "Found", format_: Format) -> tuple[bytes | memoryview, dict[str, str]]:
    """Body and headers of an answer to many ids.

    Raises UsageError if a number is too large for float16.
    """
    headers = version_headers(found)
    left_out = 0
    if found.unanswered is not None:
        left_out = int(np.count_nonzero(found.unanswered))
        headers[UNANSWERED] = str(left_out)
    media_type, dtype = format_
    if media_type == JSON:
        body = _about(found) | {"ids": _listed(found.found_ids), "embeddings": found.values}
        body["missing"] = _listed(found.missing)
        if found.unanswered is not None:
            body["unanswered"] = _listed(found.unanswered_ids)
        return dump_json(body), headers
    values = _as_dtype(found.values, dtype)
    if media_type == ARROW:
        return _arrow(found, values, dtype), headers
    headers[SHAPE] = f"{values.shape[0]},{values.shape[1]}"
    absent = len(found.found) - len(values)
    headers[MISSING] = str(absent - left_out)
    if absent:
        headers[FOUND] = _mask(found.found)
    if found.unanswered is not None and left_out:
        headers[UNANSWERED_MASK] = _mask(found.unanswered)
    return np.ascontiguousarray(values).reshape(-1).view(np.uint8).data, headers


def encode_one(found: "Found", format_: Format) -> tuple[bytes | memoryview, dict[str, str]]:
    """Body and headers of an answer to one id, which was found.

    The same as for many ids, but JSON has `id` and `embedding`, and `Backstay-Shape` is `D`.
    """
    if format_.media_type == ARROW:
        return encode(found, format_)
    headers = version_headers(found)
    if format_.media_type == JSON:
        body = _about(found) | {"id": found.first_id(), "embedding": found.values[0]}
        return dump_json(body), headers
    headers[SHAPE] = str(found.values.shape[1])
    return _as_dtype(found.values, format_.dtype).tobytes(), headers


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
        absent = int(headers[MISSING]) + int(headers.get(UNANSWERED, 0))
        found = _unmask(headers[FOUND], asked) if absent else np.ones(asked, bool)
    except (KeyError, ValueError) as error:
        raise _inconsistent(repr(error)) from error
    if np.count_nonzero(found) != n:
        raise _inconsistent(f"{n} vectors for {np.count_nonzero(found)} ids")
    return values.astype(values.dtype.newbyteorder("="), copy=False), found


def decode_unanswered(headers: Mapping[str, str], *, asked: int) -> npt.NDArray[np.bool_]:
    """The mask (asked,) of the ids that an octet-stream answer leaves out, for lost shards."""
    if not int(headers.get(UNANSWERED, 0)):
        return np.zeros(asked, bool)
    try:
        return _unmask(headers[UNANSWERED_MASK], asked)
    except (KeyError, ValueError) as error:
        raise _inconsistent(repr(error)) from error


def _mask(mask: npt.NDArray[np.bool_]) -> str:
    return base64.b64encode(np.packbits(mask, bitorder="little").tobytes()).decode()


def _unmask(text: str, count: int) -> npt.NDArray[np.bool_]:
    packed = np.frombuffer(base64.b64decode(text, validate=True), np.uint8)
    return np.unpackbits(packed, count=count, bitorder="little").astype(bool)


def _inconsistent(why: str) -> ServiceError:
    return ServiceError(
        f"expected {BINARY} described by {SHAPE}, {MISSING} and {FOUND}; found a body that does "
        f"not match these headers ({why}). Check that the URL is a Backstay service."
    )


def etag(found: "Found", format_: Format) -> str:
    """The weak entity tag of one vector: it changes with its table, its space and its format."""
    of = f"{found.source_fingerprint}-{found.fingerprint}-{FORMATS.index(format_)}"
    return f'W/"{of}"'


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


def _about(found: "Found") -> dict[str, object]:
    return {
        "space": found.space,
        "entity": found.entity,
        "version": found.version,
        "source_version": found.source_version,
    }


def _listed(ids: pa.Array) -> object:
    """Ids as JSON takes them; an array of integers is much faster than a list."""
    return ids.to_numpy() if ids.type == pa.int64() else ids.to_pylist()


def _as_dtype(
    values: npt.NDArray[np.float32], dtype: FloatType
) -> npt.NDArray[np.float32 | np.float16]:
    """The vectors in little-endian float32 or float16."""
    if dtype == "float32":
        return values.astype("<f4", copy=False)
    with np.errstate(over="ignore"):
        half = values.astype("<f2")
    if not np.isfinite(half).all():
        raise UsageError(
            f"expected numbers up to {np.finfo(np.float16).max:g} for float16; found "
            f"{np.abs(values).max():g}. Ask for float32."
        )
    return half


def _arrow(found: "Found", values: npt.NDArray[np.float32 | np.float16], dtype: FloatType) -> bytes:
    ids = found.found_ids
    of_strings = ids.type == pa.large_string()
    schema = table_schema(
        values.shape[1],
        "string" if of_strings else "int64",
        space=found.space,
        entity=found.entity,
        version=found.version,
        dtype=dtype,
        fingerprint=found.fingerprint,
    )
    schema = schema.with_metadata(
        {
            **schema.metadata,
            "backstay.source_version": str(found.source_version),
            "backstay.source_fingerprint": found.source_fingerprint,
            "backstay.missing": dump_json(_listed(found.missing)),
        }
        | (
            {}
            if found.unanswered is None
            else {"backstay.unanswered": dump_json(_listed(found.unanswered_ids))}
        )
    )
    # Fewer readers support large_string. No answer has 2 GiB of ids.
    ids = ids.cast(pa.string()) if of_strings else ids
    batch = record_batch(ids, values, schema=schema)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as writer:
        writer.write_batch(batch)
    return bytes(sink.getvalue())
