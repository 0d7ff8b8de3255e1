"""Cells that run one after the other, and what becomes of those that fail."""

import gc
import logging
import weakref

import pytest

from backstay.evaluation.comparison.results import Failure
from backstay.evaluation.comparison.runner import CONSUMERS, Here, run_cell


def add(*numbers, more=0):
    return sum(numbers) + more


def fail(*_args):
    raise KeyError("lost")


def finish(runner):
    return dict(runner.finished())


def test_cells_run_in_their_order_and_are_given_what_was_promised():
    runner = Here()
    two = runner.submit("two", add, 1, 1)
    seven = runner.submit("seven", add, two, 3, more=two)
    runner.submit("fourteen", add, seven, seven)
    assert list(runner.finished()) == [("two", 2), ("seven", 7), ("fourteen", 14)]
    assert list(runner.finished()) == []


def test_what_is_shared_is_handed_on_as_it_is():
    runner, value = Here(), object()
    runner.submit("same", lambda part: part is value, runner.share(value))
    assert finish(runner) == {"same": True}


def test_a_cell_that_raises_leaves_the_others_alone_and_those_that_need_it_say_so(caplog):
    runner = Here()
    one = runner.submit("one", fail)
    two = runner.submit("two", add, one)
    runner.submit("three", add, 1, more=two)
    runner.submit("four", add, 4)
    with caplog.at_level(logging.DEBUG, "backstay.compare"):
        found = finish(runner)
    assert found == {
        "one": Failure(cell="one", message="KeyError: 'lost'"),
        "two": Failure(cell="two", message="it needs the result of: one"),
        "three": Failure(cell="three", message="it needs the result of: two"),
        "four": 4,
    }
    assert "Traceback" in caplog.text  # for who asks for details


def test_a_cell_may_go_on_without_consumers():
    lost = Failure(cell=f"{CONSUMERS} a_task", message="no luck")
    assert run_cell("judge", lambda *parts: parts, 1, lost) == (1, lost)


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_who_stops_the_run_is_no_failure_of_a_cell(stop):
    def interrupt():
        raise stop

    runner, done = Here(), []
    runner.submit("one", add, 1)
    runner.submit("two", interrupt)
    runner.submit("three", add, 3)
    with pytest.raises(stop):
        done.extend(label for label, _ in runner.finished())
    assert done == ["one"]


def test_what_a_cell_was_given_is_let_go_of_when_it_is_done():
    class Large:
        pass

    runner, large = Here(), Large()
    seen = weakref.ref(large)
    runner.submit("one", bool, large)
    runner.submit("two", lambda: seen() is None)
    del large
    assert seen() is not None
    found = {}
    for label, value in runner.finished():
        gc.collect()
        found[label] = value
    assert found == {"one": True, "two": True}
