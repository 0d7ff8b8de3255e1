"""Progress into the log and TensorBoard events, and from workers to the driver."""

import logging
import threading
import time

import pytest

from backstay.engines import watch as module
from backstay.engines.watch import Inbox, emptied, watching
from backstay.training.progress import Progress
from tests.support.events import events

WAIT = 30


def progress(step, score):
    return Progress(
        step=step,
        steps=20,
        epoch=step / 10,
        epochs=2,
        loss=0.5,
        alignment=0.25,
        rate=1000.0,
        seconds=3.0,
        remaining=4.0,
        score=score,
    )


def test_evaluations_are_milestones_and_the_rest_is_detail(caplog):
    with caplog.at_level(logging.DEBUG, "backstay.training"), watching(None) as watch:
        watch("model", progress(5, None))
        watch("map", progress(10, 0.125))
    detail, milestone = caplog.records
    assert (detail.levelno, milestone.levelno) == (logging.DEBUG, logging.INFO)
    assert milestone.message.startswith("map: epoch 1 of 2: loss 0.5000")
    assert "score 0.1250" in milestone.message
    assert "4 s left" in milestone.message
    assert "score" not in detail.message


def test_events_hold_every_figure_by_phase_and_step_and_can_be_read_meanwhile(tmp_path):
    with watching(tmp_path / "log") as watch:
        watch("model", progress(5, None))
        watch("model", progress(10, 0.125))
        watch("map", progress(10, -0.5))
        for _ in range(100 * WAIT):
            if len(found := events(tmp_path / "log")) == 11:
                break
            time.sleep(0.01)
    assert found == events(tmp_path / "log")
    assert found == {
        **{("model/loss", step): 0.5 for step in (5, 10)},
        **{("model/alignment", step): 0.25 for step in (5, 10)},
        **{("model/triples_per_second", step): 1000 for step in (5, 10)},
        ("model/score", 10): 0.125,
        ("map/loss", 10): 0.5,
        ("map/alignment", 10): 0.25,
        ("map/triples_per_second", 10): 1000,
        ("map/score", 10): -0.5,
    }


def test_without_a_folder_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with watching(None) as watch:
        watch("model", progress(5, 0.5))
    assert list(tmp_path.iterdir()) == []


def test_an_inbox_gives_everything_once_and_in_order():
    inbox = Inbox()
    inbox.line("2 workers: starting")
    inbox.progress("model", "progress")
    assert inbox.take() == ["2 workers: starting", ("model", "progress")]
    assert inbox.take() == []


@pytest.fixture
def pace(monkeypatch):
    monkeypatch.setattr(module, "RELAY_SECONDS", 0.01)


@pytest.mark.usefixtures("pace")
def test_messages_are_passed_on_while_the_block_runs(caplog):
    inbox, seen, arrived = Inbox(), [], threading.Event()

    def watch(*words):
        seen.append(words)
        arrived.set()

    with caplog.at_level(logging.INFO, "backstay.training"), emptied(inbox.take, watch):
        inbox.line("2 workers: starting")
        inbox.progress("model", 1)
        assert arrived.wait(WAIT)
    assert seen == [("model", 1)]
    assert caplog.messages == ["2 workers: starting"]


def test_the_last_message_is_passed_on_too():
    inbox, seen = Inbox(), []
    with emptied(inbox.take, lambda *words: seen.append(words)):
        inbox.progress("model", 1)  # long before anyone would have looked
    assert seen == [("model", 1)]
    assert "progress" not in {thread.name for thread in threading.enumerate()}


@pytest.mark.usefixtures("pace")
def test_a_watch_that_fails_is_logged_once_and_stops_nothing(caplog):
    def watch(*_words):
        raise OSError("no space left")

    inbox = Inbox()
    with emptied(inbox.take, watch):
        for number in range(3):
            inbox.progress("model", number)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "no space left" in caplog.text
    assert "progress" not in {thread.name for thread in threading.enumerate()}


def test_an_error_of_the_fit_passes_through_and_the_thread_ends():
    with pytest.raises(ZeroDivisionError), emptied(Inbox().take, print):
        1 / 0  # noqa: B018
    assert "progress" not in {thread.name for thread in threading.enumerate()}
