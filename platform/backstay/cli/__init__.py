"""The command line: one thin command per verb, one module per group of verbs.

A command imports what it needs when it runs, calls one function of the package and returns the
answer. `backstay.terminal` prints it. To add a verb, write it in its module and list it there.
"""

import click

import backstay
from backstay.cli import (
    aliases,
    cluster,
    comparison,
    consumers,
    conversion,
    data,
    demo,
    housekeeping,
    lookup,
    planning,
    service,
    tokens,
    updates,
    versions,
)

_GROUPS = (
    ("Start here", demo.COMMANDS),
    ("Datasets", data.COMMANDS),
    ("Comparison", comparison.COMMANDS),
    (
        "Versions",
        (
            *updates.COMMANDS,
            *versions.COMMANDS,
            *aliases.COMMANDS,
            *consumers.COMMANDS,
            *housekeeping.COMMANDS,
        ),
    ),
    (
        "Conversion and look-up",
        (*conversion.COMMANDS, *service.COMMANDS, *lookup.COMMANDS, *tokens.COMMANDS),
    ),
    ("Clusters", (*cluster.COMMANDS, *planning.COMMANDS)),
)


class _Grouped(click.Group):
    """A group whose help lists the commands under the headings of `_GROUPS`."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one section for each heading."""
        del ctx
        for heading, commands in _GROUPS:
            with formatter.section(heading):
                formatter.write_dl([(str(c.name), c.get_short_help_str(80)) for c in commands])


@click.group(
    cls=_Grouped,
    commands=[command for _, commands in _GROUPS for command in commands],
    context_settings={
        "help_option_names": ["-h", "--help"],
        "max_content_width": 100,
        "show_default": True,
    },
)
@click.version_option(backstay.__version__, prog_name="backstay")
def main() -> None:
    """Keep updating embeddings. Break no consumer."""


def all_commands() -> dict[str, click.Command]:
    """Every command by the words that call it, such as "consumers add"."""
    found: dict[str, click.Command] = {}
    for name, command in main.commands.items():
        inner = command.commands if isinstance(command, click.Group) else {}
        found |= {f"{name} {word}": part for word, part in inner.items()} or {name: command}
    return found
