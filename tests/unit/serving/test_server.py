"""The end of the service."""

import logging
import threading

import ray

from backstay.serving import server


def test_a_ray_serve_that_does_not_stop_is_not_waited_for_longer(monkeypatch, caplog):
    release = threading.Event()
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(server.serve, "shutdown", lambda: release.wait(60))
    with caplog.at_level(logging.WARNING, logger="backstay.serving"):
        server._shut_down(blocking=False, seconds=0.01)
    assert not release.is_set()
    assert "has not stopped within 0.01 s" in caplog.text
    release.set()


def test_an_error_while_ray_serve_stops_is_logged(monkeypatch, caplog):
    def failing():
        raise RuntimeError("the controller has died")

    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(server.serve, "shutdown", failing)
    with caplog.at_level(logging.WARNING, logger="backstay.serving"):
        server._shut_down(blocking=False, seconds=60)
    assert "did not stop in order: the controller has died" in caplog.text
