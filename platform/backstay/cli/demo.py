"""`backstay demo`."""

from pathlib import Path

import click

from backstay.cli import options
from backstay.terminal import Command, Output


@click.command(cls=Command, example="backstay demo --out demo")
@click.option("--out", type=options.FOLDER, default="demo", help="Folder for all that it writes.")
@click.pass_obj
def demo(output: Output, /, out: Path) -> None:
    """Run the whole loop on the built-in marketplace.

    Generates data, publishes versions, compares methods, converts a table, answers one look-up
    over HTTP and writes a report. This takes a few minutes. No process stays behind.
    """
    from backstay import demo as package

    report, analysis = package.run(out=out)
    output.show(report, picture=package.picture(report, analysis))


COMMANDS = (demo,)
