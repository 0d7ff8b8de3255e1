"""A thousand random byte flips over all files of a registry: none is served, none is used."""

import os
import random
from itertools import product

import pytest

from backstay.errors import BackstayError
from backstay.registry import aliases, contracts
from backstay.registry.changes import MARKER
from backstay.registry.retirement import retire
from backstay.registry.store import Registry
from backstay.registry.verify import verify
from backstay.serving.lookup import Lookup
from tests.support.builders import contract, fill

FLIPS = 1000


def _loads(space):
    """Every way to read from the space, by name."""
    loads = {
        "versions": space.versions,
        "prod": lambda: space.resolve("prod"),
        "history": lambda: aliases.history(space, "prod"),
        "chain": lambda: list(space.chain(2, 0).matrix.flat),
        "retired": lambda: space.retired(1),
        "contracts": lambda: contracts.contracts(space),
        "ads": lambda: contracts.history(space, "ads"),
        "former": lambda: contracts.history(space, "former"),
        "contract files": lambda: _contract_files(space),
    }
    for k in (0, 1, 2):
        loads |= {
            f"manifest {k}": lambda k=k: space.manifest(k),
            f"metrics {k}": lambda k=k: space.metrics(k),
        }
    for k in (1, 2):
        loads[f"map {k}"] = lambda k=k: space.backward_map(k).matrix.tobytes()
    for k in (0, 2):
        loads[f"model {k}"] = lambda k=k: _model(space, k)
        for entity in ("item", "user"):
            loads[f"{entity} {k}"] = lambda k=k, entity=entity: _table(space, k, entity)
    return loads


def _contract_files(space):
    (contract,) = contracts.contracts(space)
    return [contracts.read_file(space, contract, name) for name in (contract.model, contract.table)]


def _model(space, version):
    model = space.model(version)
    weights = {name: array.tobytes() for name, array in model.weights.items()}
    return model.config, weights, model.vocabulary


def _table(space, version, entity):
    ids, vectors = space.table(version, entity).read()
    return ids.to_pylist(), vectors.tobytes()


def _served(space, cache):
    """What the service answers, of every entity and version; None for a refusal."""
    answers = {}
    ids = {"item": [f"i{n}" for n in range(10)], "user": list(range(10))}
    with Lookup(space.uri, cache=cache) as lookup:
        for entity, version in product(ids, (0, 1, 2)):
            try:
                found = lookup.vectors(space.name, entity, ids[entity], version=version)
            except BackstayError:
                answers[entity, version] = None
            else:
                answers[entity, version] = found.source_version, found.values.tobytes()
    return answers


@pytest.fixture(scope="module")
def space(tmp_path_factory):
    """Three versions, of which one is retired, an alias that has moved, two contracts."""
    space = Registry(tmp_path_factory.mktemp("flips") / "registry").space("movies")
    fill(space, 3, 4, 5)
    retire(space, 1)
    for version in (0, 2):
        aliases.promote(space, version)
    files = {contracts.file_name(data, "bin"): data for data in (b"a frozen model", b"a table")}
    contracts.write(space, contract("ads", version=0, files=list(files)), files)
    contracts.write(space, contract("former", version=0), {})
    contracts.remove(space, "former")
    return space


def test_a_thousand_byte_flips_are_detected_or_harmless(space, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: None)
    rng = random.Random(0)
    good = {name: load() for name, load in _loads(space).items()}
    served = _served(space, tmp_path / "good")
    files = sorted(space.files.find(""))
    assert len(files) > 25
    harmless = set()
    for flip in range(FLIPS):
        name = files[flip % len(files)]
        data = space.files.read(name)
        changed = bytearray(data)
        changed[rng.randrange(len(data))] ^= rng.randrange(1, 256)
        space.files.write(name, bytes(changed))
        detected = False
        for what, load in _loads(space.fresh()).items():
            try:
                assert load() == good[what], (name, what)
            except BackstayError:
                detected = True
        if flip % 40 == 0:
            answers = _served(space, tmp_path / f"cache-{flip}")
            assert all(answers[k] in {None, served[k]} for k in served), name
            detected |= answers != served
        if not detected:
            harmless.add(name.rsplit("/", 1)[-1])
            assert not any(verify(space, k) for k in (0, 1, 2)), name
        space.files.write(name, data)
    # Nobody reads a claim once its version is there, and a marker has no meaning of its own.
    assert harmless <= {"claim.json", "claim-1.json", MARKER}
    assert {name: load() for name, load in _loads(space.fresh()).items()} == good
