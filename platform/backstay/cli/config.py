"""`--config FILE`: options of a command out of a YAML or TOML file.

The file has a section for each command. Options on the command line win:

    update:
      method: bc-aligner
      weight: 2.5
"""

import tomllib
from pathlib import Path

import click
import yaml

from backstay.cli.options import FILE

_SUFFIXES = ".yaml, .yml or .toml"


def _load(ctx: click.Context, param: click.Parameter, path: Path | None) -> Path | None:
    """Make the section of the command the defaults of its options."""
    if path is None:
        return None
    command = ctx.command.name or ""
    sections = read_sections(path, ctx)
    section = sections.get(command)
    if not isinstance(section, dict):
        found = ", ".join(sections) or "nothing"
        raise click.BadParameter(
            f"expected a section {command!r} in {path}, found {found}.", ctx, param
        )
    names = {
        flag.removeprefix("--"): option.name
        for option in ctx.command.params
        if isinstance(option, click.Option) and option is not param
        for flag in option.opts
    }
    unknown = [key for key in section if key not in names]
    if unknown:
        raise click.BadParameter(
            f"{path} sets {unknown[0]!r} for {command}, which has no option --{unknown[0]}. "
            f"Correct the name; `backstay {command} --help` lists the options.",
            ctx,
            param,
        )
    ctx.default_map = {
        **(ctx.default_map or {}),
        **{str(names[key]): _as_text(value) for key, value in section.items()},
    }
    return path


def read_sections(path: Path, ctx: click.Context | None = None) -> dict[str, object]:
    """The sections of a configuration file."""
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".toml":
            found: object = tomllib.loads(text)
        elif path.suffix in {".yaml", ".yml"}:
            found = yaml.safe_load(text)
        else:
            raise click.BadParameter(f"expected a file *{_SUFFIXES}; found {path}.", ctx)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise click.BadParameter(f"{path} can't be read: {reason}.", ctx) from error
    if not isinstance(found, dict):
        raise click.BadParameter(f"expected sections by command in {path}, found none.", ctx)
    return {str(name): section for name, section in found.items()}


def _as_text(value: object) -> object:
    """A list as the command line takes it; other values as they are."""
    return ",".join(map(str, value)) if isinstance(value, list) else value


config_file = click.option(
    "--config",
    type=FILE,
    is_eager=True,
    expose_value=False,
    callback=_load,
    help="YAML or TOML file with options of this command, such as best.yaml of `backstay tune`. "
    "Options on the command line win.",
)
