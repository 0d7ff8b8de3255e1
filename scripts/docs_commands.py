"""Writes the page of commands when mkdocs builds the site: each command with its `--help`."""

import click
from mkdocs.structure.pages import Page

from backstay.cli import all_commands, main

MARK = "<!-- commands -->"


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Put the commands in place of the mark; mkdocs calls this for every page."""
    if page.file.src_uri != "reference/commands.md":
        return markdown
    return markdown.replace(MARK, "\n".join([_table(), *map(_section, all_commands())]))


def _table() -> str:
    rows = [
        f"| [`backstay {name}`](#{_anchor(name)}) | {command.get_short_help_str(limit=200)} |"
        for name, command in all_commands().items()
    ]
    return "\n".join(["| command | does |", "|---|---|", *rows, ""])


def _section(name: str) -> str:
    with click.Context(main, info_name="backstay") as parent:
        command = all_commands()[name]
        context = click.Context(command, info_name=name, parent=parent, max_content_width=100)
        help_text = command.get_help(context)
    return f"## `backstay {name}` {{: #{_anchor(name)} }}\n\n```text\n{help_text}\n```\n"


def _anchor(name: str) -> str:
    return name.replace(" ", "-")
