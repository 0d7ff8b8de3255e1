"""Models and backward maps as safetensors: arrays and JSON, nothing that runs when it is read."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save

from backstay.compat.maps import BackwardMap
from backstay.errors import CorruptError, InputError
from backstay.storage.documents import JsonObject, canonical_json

Array = npt.NDArray[Any]
"""Of any shape and any number type."""

_WEIGHTS = "weights/"
_VOCABULARY = "vocabulary/"


@dataclass(frozen=True)
class StoredModel:
    """All that an embedding model is rebuilt from."""

    config: JsonObject  # as JSON gives it back: tuples have become lists
    weights: dict[str, Array]
    vocabulary: dict[str, tuple[str, ...]]  # attribute kind -> values, in embedding-row order


def encode_model(model: StoredModel) -> bytes:
    """The bytes of `model.safetensors`.

    A vocabulary may hold millions of values, more than a safetensors header may: each kind is a
    tensor of its UTF-8 bytes and one of its offsets.
    """
    tensors = {
        # not ascontiguousarray, which turns a scalar into a row
        _WEIGHTS + name: np.asarray(array, order="C")
        for name, array in model.weights.items()
    }
    for kind, values in model.vocabulary.items():
        encoded = [value.encode() for value in values]
        offsets = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
        tensors[f"{_VOCABULARY}{kind}/bytes"] = np.frombuffer(b"".join(encoded), np.uint8)
        tensors[f"{_VOCABULARY}{kind}/offsets"] = offsets
    about = {"config": model.config, "vocabulary": list(model.vocabulary)}
    return _save(tensors, {"backstay": canonical_json(about, what="a model's config").decode()})


def decode_model(data: bytes, *, path: str) -> StoredModel:
    """Read the bytes of `model.safetensors`; `path` is for messages."""
    tensors, metadata = _load(data, path=path)
    try:
        about = json.loads(metadata["backstay"])
        vocabulary = {}
        for kind in about["vocabulary"]:
            joined = tensors[f"{_VOCABULARY}{kind}/bytes"].tobytes()
            offsets = tensors[f"{_VOCABULARY}{kind}/offsets"].tolist()
            vocabulary[kind] = tuple(joined[start:end].decode() for start, end in pairwise(offsets))
        weights = {
            name.removeprefix(_WEIGHTS): array
            for name, array in tensors.items()
            if name.startswith(_WEIGHTS)
        }
        return StoredModel(about["config"], weights, vocabulary)
    except (KeyError, ValueError) as error:
        raise CorruptError(f"{path} holds no Backstay model ({error!r}).") from error


def encode_map(backward: BackwardMap, *, fingerprints: Mapping[str, str]) -> bytes:
    """The bytes of `backward.safetensors`.

    `fingerprints`: of the `source` and the `target`, where that is known.
    """
    about = {
        "space": backward.space,
        "source": backward.source,
        "target": backward.target,
        "fingerprints": dict(fingerprints),
    }
    metadata = {"backstay": canonical_json(about, what="a map").decode()}
    return _save({"matrix": np.asarray(backward.matrix, order="C")}, metadata)


def decode_map(data: bytes, *, path: str) -> tuple[BackwardMap, dict[str, str]]:
    """A map and its fingerprints out of `backward.safetensors`; `path` is for messages.

    Earlier releases wrote no fingerprints.
    """
    tensors, metadata = _load(data, path=path)
    try:
        about = json.loads(metadata["backstay"])
        backward = BackwardMap(about["space"], about["source"], about["target"], tensors["matrix"])
        return backward, dict(about.get("fingerprints", {}))
    except (KeyError, ValueError) as error:
        raise CorruptError(f"{path} holds no backward map ({error!r}).") from error


def _save(tensors: dict[str, Array], metadata: dict[str, str]) -> bytes:
    for name, array in tensors.items():
        if array.dtype.hasobject:
            raise InputError(f"{name} must be an array of numbers; found dtype {array.dtype}.")
    return bytes(save(tensors, metadata=metadata))


def _load(data: bytes, *, path: str) -> tuple[dict[str, Array], dict[str, str]]:
    try:
        tensors = load(data)
    except SafetensorError as error:
        raise CorruptError(
            f"{path} is no whole safetensors file ({error}); restore it from a copy."
        ) from error
    length = int.from_bytes(data[:8], "little")  # the header's; `load` leaves its metadata out
    return tensors, json.loads(data[8 : 8 + length]).get("__metadata__", {})
