"""The finished cells of a comparison as files, so that a run that was stopped can go on.

    cells/<cell>/model.safetensors      a fitted version: its model,
    cells/<cell>/maps.safetensors       its maps, and in cell.json what it took
    cells/<cell>/consumer-<seed>.safetensors
    cells/<cell>/replicates.safetensors a judgement's bootstrap replicates
    cells/<cell>/cell.json              written last: a cell without it is not finished

Nothing here is ever unpickled.
"""

import json
import re
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter
from safetensors import SafetensorError
from safetensors.numpy import load, save

from backstay.compat.maps import AffineMap, EntityMaps
from backstay.errors import BackstayError, CorruptError
from backstay.evaluation.comparison.cells import Fitted, Judgement
from backstay.evaluation.comparison.results import MapFigures, Record
from backstay.evaluation.consumers.model import Consumer
from backstay.models.trained import TrainedModel
from backstay.registry.tensors import StoredModel, decode_model, encode_model
from backstay.storage.atomic import write_file

FOLDER = "cells"
_DONE = "cell.json"
_MODEL, _MAPS, _REPLICATES = "model.safetensors", "maps.safetensors", "replicates.safetensors"
_records = TypeAdapter(tuple[Record, ...])
_figures = TypeAdapter(tuple[MapFigures, ...])


@dataclass(frozen=True)
class Kept:
    """The cells that are finished in one folder, by their labels."""

    folder: Path

    def save(self, label: str, value: Fitted | Judgement | list[Consumer]) -> None:
        """Keep a finished cell; one that is cut off meanwhile counts for nothing."""
        place = self._place(label)
        if place.exists():
            shutil.rmtree(place)
        about = {"cell": label} | _write(place, value)
        write_file(place / _DONE, (json.dumps(about) + "\n").encode())

    def find(self, label: str) -> Fitted | Judgement | list[Consumer] | None:
        """A cell that was finished before; None where it was not.

        Raises CorruptError where its files are damaged.
        """
        place = self._place(label)
        if not (place / _DONE).is_file():
            return None
        try:
            about = json.loads((place / _DONE).read_text(encoding="utf-8"))
            return _read(place, about)
        except _UNREADABLE as error:
            raise CorruptError(
                f"{place} holds a finished cell that can't be read ({error}); "
                "remove the folder and run the comparison again, which makes it anew."
            ) from error

    def _place(self, label: str) -> Path:
        return self.folder / re.sub(r"[^\w.=-]+", "-", label)


def _write(place: Path, value: Fitted | Judgement | list[Consumer]) -> dict[str, Any]:
    if isinstance(value, Fitted):
        write_file(place / _MODEL, encode_model(StoredModel(*value.model.to_parts())))
        write_file(place / _MAPS, save(_arrays(value.backward)))
        about = {name: getattr(value, name) for name in _PLAIN}
        return {"kind": "fitted", "maps": len(value.backward), **about}
    if isinstance(value, Judgement):
        write_file(place / _REPLICATES, save({"recall": value.recall, **value.aucs}))
        records, maps = map(asdict, value.records), map(asdict, value.maps)
        about = {"records": list(records), "maps": list(maps), "tasks": list(value.aucs)}
        return {"kind": "judgement", "version": value.version, **about}
    for seed, consumer in enumerate(value):
        consumer.save(place / f"consumer-{seed}.safetensors")
    return {"kind": "consumers", "count": len(value)}


_UNREADABLE = (OSError, LookupError, TypeError, ValueError, BackstayError, SafetensorError)
_PLAIN = ("version", "curves", "seconds", "peak_rss_mb")


def _read(place: Path, about: dict[str, Any]) -> Fitted | Judgement | list[Consumer]:
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
    """A shared map is written once."""
    arrays = {}
    for number, maps in enumerate(backward):
        kinds = ("user",) if maps.user is maps.item else ("user", "item")
        for kind in kinds:
            map_: AffineMap = getattr(maps, kind)
            arrays[f"{number}/{kind}/matrix"] = np.ascontiguousarray(map_.matrix)
            arrays[f"{number}/{kind}/offset"] = map_.offset
    return arrays


def _maps(arrays: dict[str, np.ndarray], number: int) -> EntityMaps:
    kinds = [kind for kind in ("user", "item") if f"{number}/{kind}/matrix" in arrays]
    maps = [
        AffineMap(arrays[f"{number}/{kind}/matrix"], arrays[f"{number}/{kind}/offset"])
        for kind in kinds
    ]
    return EntityMaps(user=maps[0], item=maps[-1])
