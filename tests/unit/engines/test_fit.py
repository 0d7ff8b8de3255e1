"""What fitting on Ray needs beside Ray: words for failures, and file systems."""

from types import SimpleNamespace

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from backstay.engines.fit import arrow_filesystem, failure_of, start_message
from backstay.storage.files import open_files
from backstay.training.fit import FitState


class FailedError(Exception):
    """As Ray Train raises it: the causes are attributes."""

    def __init__(self, **causes):
        super().__init__("Training failed due to worker errors:\n[Rank 0]\nTraceback …")
        vars(self).update(causes)


@pytest.mark.parametrize(
    "error",
    [
        FailedError(worker_failures={1: ValueError("no luck."), 0: KeyError("later")}),
        FailedError(worker_failures={1: SimpleNamespace(_base_exc=ValueError("no luck"))}),
        FailedError(controller_failure=ValueError("no luck")),
    ],
    ids=["worker", "wrapped", "controller"],
)
def test_a_failure_names_its_first_cause_and_what_to_do(error):
    words = str(failure_of(error))
    assert "ValueError: no luck. Once" in words
    assert "resumes from the last checkpoint" in words
    assert "Traceback" not in words


def test_a_failure_without_a_cause_is_reported_as_it_is():
    assert "FailedError: Training failed" in str(failure_of(FailedError()))


@pytest.mark.parametrize(
    ("size", "states", "words"),
    [
        (2, None, "2 workers: starting"),
        (
            1,
            {"model": FitState(step=9), "map": FitState(step=4)},
            "1 worker: resuming from the checkpoint after step 4 of the map",
        ),
    ],
)
def test_the_start_message_names_the_checkpoint(size, states, words):
    assert start_message(size, states) == words


def test_ray_writes_through_the_same_file_system_as_everything_else():
    files = open_files("memory://checkpoints-of-a-test")
    with arrow_filesystem(files).open_output_stream(files.full("state.pt")) as file:
        file.write(b"state")
    assert files.read("state.pt") == b"state"
    MemoryFileSystem().rm(files.root, recursive=True)
