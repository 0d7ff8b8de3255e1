"""Shared by all jobs: run a command with the submitted code, in the driver and on all workers."""

import sys
from pathlib import Path

# Import Backstay from the submitted working directory, not from the cluster's installation. The
# engines make their workers import the same copy.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "platform"))

from backstay.cli import main


def drive(verb: str) -> None:
    """Run a `backstay` command as the driver of a Ray job."""
    command, settings = main.commands[verb], main.context_settings
    command.main(sys.argv[1:], prog_name=f"jobs/{Path(sys.argv[0]).name}", **settings)
