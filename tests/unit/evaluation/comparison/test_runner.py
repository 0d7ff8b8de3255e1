"""Cells that run one after the other, and what happens when they fail."""

import gc
import logging
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from backstay.evaluation.comparison.keys import CellKey, Outputs
from backstay.evaluation.comparison.results import Failure
from backstay.evaluation.comparison.runner import InProcess, run_cell


@dataclass(frozen=True)
class Key(CellKey):
    name: str

    @property
    def label(self):
        return self.name


@dataclass(frozen=True)
class Cell:
    """Runs a function on the data and the outputs of other cells."""

    name: str
    function: Callable
    needs: tuple = ()
    uses: tuple = ()
    own_process: bool = False
    large: object = field(default=None, repr=False)

    @property
    def key(self):
        return Key(self.name)

    def run(self, data, outputs):
        found = [outputs.get(key) for key in (*self.needs, *self.uses)]
        return self.function(data, *found)


def add(data, *numbers):
    return data + sum(numbers)


def fail(*_args):
    raise KeyError("lost")


def keys(*labels):
    return tuple(map(Key, labels))


def run(*cells, data=0, known=()):
    known = Outputs({Key(label): value for label, value in dict(known).items()})
    found = InProcess().run(cells, data, known)
    return [(key.label, output) for key, output in found]


def test_cells_run_in_their_order_and_are_given_the_outputs_of_others():
    cells = (
        Cell("two", add),
        Cell("nine", add, needs=keys("two", "five")),
        Cell("twenty", add, needs=keys("nine"), uses=keys("nine")),
    )
    found = run(*cells, data=2, known={"five": 5})
    assert found == [("two", 2), ("nine", 9), ("twenty", 20)]


def test_what_was_known_before_is_not_changed():
    known = Outputs({Key("one"): 1})
    assert len(list(InProcess().run([Cell("two", add)], 2, known))) == 1
    assert known.get(Key("two")) is None


def test_all_cells_are_given_the_data_itself():
    value = object()
    assert run(Cell("same", lambda data: data is value), data=value) == [("same", True)]


def test_a_cell_that_raises_fails_the_cells_that_need_it_and_no_others(caplog):
    with caplog.at_level(logging.DEBUG, "backstay.compare"):
        found = run(
            Cell("one", fail),
            Cell("two", add, needs=keys("one")),
            Cell("three", add, needs=keys("four", "two")),
            Cell("five", add),
            data=5,
            known={"four": 4},
        )
    assert dict(found) == {
        "one": Failure(cell="one", message="KeyError: 'lost'"),
        "two": Failure(cell="two", message="it needs the result of: one"),
        "three": Failure(cell="three", message="it needs the result of: two"),
        "five": 5,
    }
    assert "Traceback" in caplog.text  # shown by --debug


def test_a_cell_runs_without_what_it_uses():
    lost = Failure(cell="train", message="no luck")
    cell = Cell("judge", lambda *parts: parts, needs=keys("fit"), uses=keys("train"))
    assert run_cell(cell, 0, 1, lost) == (0, 1, None)


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_stopping_the_run_is_no_failure_of_a_cell(stop):
    def interrupt(_data):
        raise stop

    done = []
    cells = [Cell("one", add), Cell("two", interrupt), Cell("three", add)]
    with pytest.raises(stop):
        done.extend(key.label for key, _ in InProcess().run(cells, 1, Outputs()))
    assert done == ["one"]


def test_a_cell_is_released_when_it_is_done():
    class Large:
        pass

    seen = []

    def cells():
        large = Large()
        seen.append(weakref.ref(large))
        yield Cell("one", lambda _data: seen[0]() is not None, large=large)
        del large
        yield Cell("two", lambda _data: seen[0]() is None)

    found = {}
    for key, output in InProcess().run(cells(), 0, Outputs()):
        gc.collect()
        found[key.label] = output
    assert found == {"one": True, "two": True}
