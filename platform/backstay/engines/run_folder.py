"""The folder of a run: claimed by what is to be done in it, so that the same can go on there."""

import json
from pathlib import Path
from typing import Any

from backstay.errors import InputError
from backstay.evaluation.comparison.files import write_whole

PLAN_FILE = "plan.json"


def claim_folder(out: Path, what: dict[str, Any], *, result: str | None) -> None:
    """Take an empty folder, or one that the same run began to fill and has not finished.

    `what` tells one run from another; `result` is the file that a finished run leaves, None for a
    run that may go on even so.
    """
    text = json.dumps(what, indent=1, sort_keys=True) + "\n"
    plan = out / PLAN_FILE
    if out.exists() and any(out.iterdir()):
        if result is not None and (out / result).exists():
            raise InputError(f"{out} holds a finished run; give this one a folder of its own.")
        if not plan.is_file():
            raise InputError(f"{out} is not empty; give the run a folder of its own.")
        if plan.read_text(encoding="utf-8") != text:
            raise InputError(
                f"{out} holds another run, begun with other options or data (see {plan}); repeat "
                "its command to go on with it, or give this run a folder of its own."
            )
    write_whole(plan, text.encode())
