import io
import json
import logging
import threading
from datetime import datetime

import httpx
import pytest

from backstay.errors import UsageError
from backstay.serving.access_log import AccessLog
from backstay.serving.app import build_app
from tests.support.served import SPACE, listening

FIELDS = {
    "time", "request_id", "method", "route", "status", "space", "version", "format", "entity",
    "source_version", "ids", "found", "bytes", "milliseconds", "consumer",
}  # fmt: skip


def records(path):
    """The lines of a log; each must be JSON by itself."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def logged(lookup, tmp_path):
    """The URL of a service, and a function that ends its log and reads it."""
    app = build_app(lookup, replica="one")
    path = tmp_path / "access.log"
    app.state.log = AccessLog(str(path))

    def read():
        app.state.log.close()
        return records(path)

    with listening(app) as url:
        yield url, read
        app.state.log.close()


def test_a_line_says_what_was_asked_and_answered(logged):
    url, read = logged
    answer = httpx.post(
        f"{url}/v1/spaces/{SPACE}/user/lookup",
        json={"ids": [5, 41], "version": 0},
        headers={"Backstay-Consumer": "ads", "Accept": "application/octet-stream"},
    )
    (line,) = read()
    assert set(line) == FIELDS
    assert datetime.fromisoformat(line["time"]).tzinfo
    assert line["milliseconds"] > 0
    del line["time"], line["milliseconds"]
    assert line == {
        "request_id": answer.headers["Backstay-Request-Id"],
        "method": "POST",
        "route": "/v1/spaces/{space}/{entity}/lookup",
        "status": 200,
        "space": SPACE,
        "version": "0",
        "format": "binary",
        "entity": "user",
        "source_version": 2,
        "ids": 2,
        "found": 1,
        "bytes": len(answer.content),
        "consumer": "ads",
    }


def test_nothing_that_a_client_makes_up_reaches_the_log(logged):
    url, read = logged
    evil = "evil%0A%22%7D%1B%5B31m"
    paths = [
        f"/v1/spaces/{evil}/user/5",
        f"/v1/spaces/{SPACE}/{evil}/5",
        f"/v1/spaces/{SPACE}/user/{evil}",
        f"/v1/spaces/{SPACE}/user/5?version={evil}&token=evil",
        f"/v1/spaces/{SPACE}/item/{evil}",
        f"/{evil}",
    ]
    headers = {"Authorization": "Bearer evil", "User-Agent": "evil", "Backstay-Request-Id": "evil!"}
    with httpx.Client(base_url=url, headers=headers) as client:
        for path in paths:
            client.get(path)
        client.get("/healthz", headers={"Backstay-Consumer": "evil name"})
        client.request("PROPFIND", "/healthz")
    lines = read()
    assert len(lines) == len(paths) + 2
    assert "evil" not in json.dumps(lines).lower()
    assert {line["space"] for line in lines} == {"", SPACE}


def test_a_request_id_is_echoed_and_logged(logged):
    url, read = logged
    answer = httpx.get(f"{url}/healthz", headers={"Backstay-Request-Id": "mine-1"})
    assert answer.headers["Backstay-Request-Id"] == "mine-1"
    assert [line["request_id"] for line in read()] == ["mine-1"]


def test_there_is_no_log_by_default(lookup):
    assert not build_app(lookup).state.log.on


def test_a_log_that_was_rotated_is_opened_anew(tmp_path):
    path = tmp_path / "access.log"
    log = AccessLog(str(path))
    log.write({"n": 1})
    while not path.stat().st_size:
        pass
    path.rename(tmp_path / "access.log.1")
    log.write({"n": 2})
    log.close()
    assert [line["n"] for line in records(tmp_path / "access.log.1")] == [1]
    assert [line["n"] for line in records(path)] == [2]


def test_two_processes_can_share_a_file(tmp_path):
    path = tmp_path / "access.log"
    logs = [AccessLog(str(path)) for _ in range(2)]
    for n in range(2000):
        logs[n % 2].write({"n": n})
    for log in logs:
        log.close()
    assert sorted(line["n"] for line in records(path)) == list(range(2000))


def test_a_slow_disk_drops_lines_and_holds_nobody_up(monkeypatch, tmp_path):
    monkeypatch.setattr("backstay.serving.access_log._MOST_WAITING", 10)
    log = AccessLog(str(tmp_path / "access.log"))
    waiting = threading.Event()
    put = log._put
    monkeypatch.setattr(log, "_put", lambda text: (waiting.wait(), put(text)))
    for n in range(1000):
        log.write({"n": n})
    waiting.set()
    log.close()
    assert log.dropped + len(records(tmp_path / "access.log")) == 1000
    assert log.dropped > 900


class FullDisk(io.BytesIO):
    """Takes five bytes, and then none."""

    def write(self, text):
        if self.tell():
            raise OSError(28, "No space left on device")
        return super().write(text[:5])


def test_a_full_disk_is_logged_and_ends_no_line_in_the_middle(monkeypatch, tmp_path, caplog):
    path = tmp_path / "access.log"
    log = AccessLog(str(path))
    good, full = log._file, FullDisk()
    monkeypatch.setattr(log, "_reopen_if_moved", lambda: None)
    with caplog.at_level(logging.WARNING):
        log._file = full
        log.write({"n": 1})
        while not log.dropped:
            pass
        log._file = good
        log.write({"n": 2})
        log.close()
    assert log.dropped == 1
    assert "No space left" in caplog.text
    assert path.read_text(encoding="utf-8").startswith('\n{"')  # ends the cut line


def test_a_file_that_can_not_be_written_is_an_error(tmp_path):
    with pytest.raises(UsageError, match=r"--access-log must be a file .*No such file"):
        AccessLog(str(tmp_path / "no" / "access.log"))
