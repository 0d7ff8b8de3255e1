"""The folder of a run. It records the run's plan, so that only the same run may go on in it."""

import json
from collections.abc import Mapping
from pathlib import Path

from backstay.errors import InputError
from backstay.storage.atomic import write_file

PLAN_FILE = "plan.json"


def claim_folder(out: Path, plan: Mapping[str, object], *, result: str | None) -> None:
    """Take an empty folder, or one that the same run began to fill and has not finished.

    `plan` identifies the run: its options and data. `result` is the file that a finished run
    leaves; None for a run that may be continued. Raises InputError for any other folder.
    """
    text = json.dumps(plan, indent=1, sort_keys=True) + "\n"
    recorded = out / PLAN_FILE
    if out.exists() and any(out.iterdir()):
        if result is not None and (out / result).exists():
            raise InputError(f"{out} holds a finished run; give this one a folder of its own.")
        if not recorded.is_file():
            raise InputError(f"{out} is not empty; give the run a folder of its own.")
        if recorded.read_text(encoding="utf-8") != text:
            raise InputError(
                f"{out} holds another run, begun with other options or data (see {recorded}); "
                "repeat its command to go on with it, or give this run a folder of its own."
            )
    write_file(recorded, text.encode())
