"""Finished cells of a comparison as files, from which a stopped run resumes.

    cells/<cell>/model.safetensors      a fitted version: its model,
    cells/<cell>/maps.safetensors       its maps; its costs are in cell.json
    cells/<cell>/consumer-<seed>.safetensors
    cells/<cell>/replicates.safetensors a judgement's bootstrap replicates
    cells/<cell>/cell.json              written last: without it the cell is not finished

Nothing here is ever unpickled.
"""

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
from pydantic import TypeAdapter
from safetensors import SafetensorError
from safetensors.numpy import load, save

from backstay.compat.maps import AffineMap, EntityMaps
from backstay.errors import BackstayError, CorruptError
from backstay.evaluation.comparison.keys import CellKey
from backstay.evaluation.comparison.results import MapFigures, Record
from backstay.evaluation.comparison.values import Fitted, Judgement
from backstay.evaluation.consumers.model import Consumer
from backstay.models.trained import TrainedModel
from backstay.registry.tensors import StoredModel, decode_model, encode_model
from backstay.storage.atomic import write_file

T = TypeVar("T")
Output = Fitted | Judgement | list[Consumer]
"""What a cell returns."""

FOLDER = "cells"
_DONE = "cell.json"
_MODEL, _MAPS, _REPLICATES = "model.safetensors", "maps.safetensors", "replicates.safetensors"
_records = TypeAdapter(tuple[Record, ...])
_figures = TypeAdapter(tuple[MapFigures, ...])


@dataclass(frozen=True)
class CellStore:
    """The finished cells in one folder."""

    folder: Path

    def save(self, key: CellKey[T], output: T) -> None:
        """Store a finished cell. If interrupted, the cell counts as not finished."""
        place = self.folder / key.folder
        if place.exists():
            shutil.rmtree(place)
        about = {"cell": key.label} | _write(place, cast("Output", output))
        write_file(place / _DONE, (json.dumps(about) + "\n").encode())

    def find(self, key: CellKey[T]) -> T | None:
        """The output of a cell that finished before; None if it did not.

        Raises CorruptError if its files are damaged.
        """
        place = self.folder / key.folder
        if not (place / _DONE).is_file():
            return None
        try:
            about = json.loads((place / _DONE).read_text(encoding="utf-8"))
            return cast("T", _read(place, about))
        except _UNREADABLE as error:
            raise CorruptError(
                f"{place} holds a finished cell that can't be read ({error}); "
                "remove the folder and run the comparison again, which repeats the cell."
            ) from error


def _write(place: Path, output: Output) -> dict[str, object]:
    if isinstance(output, Fitted):
        write_file(place / _MODEL, encode_model(StoredModel(*output.model.to_parts())))
        write_file(place / _MAPS, save(_arrays(output.backward)))
        about = {name: getattr(output, name) for name in _PLAIN}
        return {"kind": "fitted", "maps": len(output.backward), **about}
    if isinstance(output, Judgement):
        write_file(place / _REPLICATES, save({"recall": output.recall, **output.aucs}))
        records, maps = map(asdict, output.records), map(asdict, output.maps)
        about = {"records": list(records), "maps": list(maps), "tasks": list(output.aucs)}
        return {"kind": "judgement", "version": output.version, **about}
    for seed, consumer in enumerate(output):
        consumer.save(place / f"consumer-{seed}.safetensors")
    return {"kind": "consumers", "count": len(output)}


_UNREADABLE = (OSError, LookupError, TypeError, ValueError, BackstayError, SafetensorError)
_PLAIN = ("version", "curves", "seconds", "peak_rss_mb")


def _read(place: Path, about: dict[str, Any]) -> Output:
    if about["kind"] == "fitted":
        stored = decode_model((place / _MODEL).read_bytes(), path=str(place / _MODEL))
        arrays = load((place / _MAPS).read_bytes())
        return Fitted(
            model=TrainedModel.from_parts(stored.config, stored.weights, stored.vocabulary),
            backward=tuple(_maps(arrays, number) for number in range(about["maps"])),
            **{name: about[name] for name in _PLAIN},
        )
    if about["kind"] == "judgement":
        replicates = load((place / _REPLICATES).read_bytes())
        return Judgement(
            version=about["version"],
            records=_records.validate_python(about["records"]),
            maps=_figures.validate_python(about["maps"]),
            recall=replicates["recall"],
            aucs={task: replicates[task] for task in about["tasks"]},  # means depend on the order
        )
    seeds = range(about["count"])
    return [Consumer.load(place / f"consumer-{seed}.safetensors") for seed in seeds]


def _arrays(backward: tuple[EntityMaps, ...]) -> dict[str, np.ndarray]:
    """Matrices and offsets by name. A map shared by users and items is written once."""
    arrays = {}
    for number, maps in enumerate(backward):
        kinds = {"user": maps.user, "item": maps.item}
        if maps.user is maps.item:
            del kinds["item"]
        for kind, map_ in kinds.items():
            arrays[f"{number}/{kind}/matrix"] = np.ascontiguousarray(map_.matrix)
            arrays[f"{number}/{kind}/offset"] = map_.offset
    return arrays


def _maps(arrays: dict[str, np.ndarray], number: int) -> EntityMaps:
    """Inverse of `_arrays` for the maps at one position."""
    kinds = [kind for kind in ("user", "item") if f"{number}/{kind}/matrix" in arrays]
    maps = [
        AffineMap(arrays[f"{number}/{kind}/matrix"], arrays[f"{number}/{kind}/offset"])
        for kind in kinds
    ]
    return EntityMaps(user=maps[0], item=maps[-1])
