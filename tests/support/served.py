"""A registry to serve from, a slow reference for the answers of look-ups, and an HTTP server."""

import socket
import threading
from contextlib import contextmanager

import numpy as np
import pyarrow as pa
import uvicorn

from backstay.compat.maps import BackwardMap
from backstay.registry.store import Registry
from tests.support import builders

SPACE = "movies"
DIMS = (3, 4, 6)
USERS = np.array([40, -7, 12, 9_007_199_254_740_993, 0, 5], np.int64)
ITEMS = ["tt1", "a/b", "é ü", "日本", "", "x" * 300, "tt10", "tt2", "line\nbreak\n"]
ENTITIES = {
    "user": pa.array(USERS),
    "item": pa.array(ITEMS, pa.string()),
}


def tables_of(version):
    rng = np.random.default_rng(version)
    return {
        entity: rng.standard_normal((len(ids), DIMS[version])).astype(np.float32)
        for entity, ids in ENTITIES.items()
    }


def map_of(version):
    rng = np.random.default_rng(100 + version)
    matrix = rng.standard_normal((DIMS[version - 1], DIMS[version])).astype(np.float32)
    return BackwardMap(SPACE, version, version - 1, matrix)


def publish(registry, version, *, space=SPACE, tables=None, with_map=True, entities=ENTITIES):
    draft = registry.space(space).draft(version, run_id=f"run-{version}")
    for entity, values in (tables or tables_of(version)).items():
        draft.write_table(entity, [(entities[entity], values)])
    if version and with_map:
        map_ = map_of(version)
        draft.write_backward(BackwardMap(space, version, version - 1, map_.matrix))
    builders.publish(draft, method="bc-aligner" if with_map else "no-bc")


def build(root, *, versions=3):
    registry = Registry(root)
    for version in range(versions):
        publish(registry, version)
    return registry


def slowly(entity, ids, *, version, source):
    """Rows of version `source`'s table, converted map by map in plain loops."""
    names = ENTITIES[entity].to_pylist()
    table = tables_of(source)[entity]
    answer = []
    for id_ in ids:
        if id_ not in names:
            continue
        vector = [float(x) for x in table[names.index(id_)]]
        for k in range(source, version, -1):
            matrix = map_of(k).matrix
            vector = [
                sum(float(matrix[i, j]) * vector[j] for j in range(DIMS[k]))
                for i in range(DIMS[k - 1])
            ]
        answer.append(vector)
    return np.array(answer).reshape(-1, DIMS[version])


@contextmanager
def listening(app):
    """Serve an ASGI application on a free port, and give its URL."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(app, log_config=None, access_log=False, lifespan="off")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()
