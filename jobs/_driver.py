"""What every job shares: it runs the code that was submitted, here and on the cluster's workers."""

import sys
from pathlib import Path

# The working directory that came with the job goes before a Backstay installed on the cluster; the
# engines pass the place that this process imports it from on to their workers.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "platform"))

from backstay.cli import main


def drive(verb: str) -> None:
    """Run a `backstay` command as the driver of a Ray job."""
    main([verb, *sys.argv[1:]], prog_name=f"jobs/{Path(sys.argv[0]).name}")
