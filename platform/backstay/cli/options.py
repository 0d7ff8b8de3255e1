"""Types of options, and the options that several commands share."""

import json
import os
from collections.abc import Callable, Mapping
from functools import reduce
from pathlib import Path
from typing import Any, TypeVar

import click

T = TypeVar("T")
Decorator = Callable[[Callable[..., object]], Callable[..., object]]

FOLDER = click.Path(path_type=Path, file_okay=False)
FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
DATASET = click.Path(path_type=Path, exists=True, file_okay=False)
POSITIVE = click.IntRange(min=1)
VERSION = click.IntRange(min=0)
SECONDS = click.FloatRange(min=0, min_open=True)
POSITION = click.FloatRange(0, 1, min_open=True)


class Parsed(click.ParamType[T]):
    """A text that `parse` turns into a value; a ValueError of it is wrong usage."""

    def __init__(self, parse: Callable[[str], T], name: str) -> None:
        self.parse: Callable[[str], T] = parse
        self.name = name

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> T:
        """Parse the text of an option."""
        try:
            return self.parse(str(value))
        except ValueError:
            self.fail(f"expected {self.name}, found {value!r}.", param, ctx)


def _listed(item: Callable[[str], T], name: str) -> Parsed[tuple[T, ...]]:
    """Values separated by commas, as a tuple."""
    return Parsed(lambda text: tuple(item(p.strip()) for p in text.split(",") if p.strip()), name)


def _pair(text: str) -> tuple[str, str]:
    kind, _, column = text.partition("=")
    if not (kind and column):
        raise ValueError(text)
    return kind, column


def _workers(text: str) -> int | tuple[int, int]:
    least, colon, most = text.partition(":")
    found = int(least), int(most if colon else least)
    if not int(bool(colon)) <= found[0] <= found[1]:
        raise click.BadParameter(
            f"expected a number of workers, or MIN:MAX with 1 ≤ MIN ≤ MAX; found {text!r}."
        )
    return found if colon else found[0]


NAMES = _listed(str, "NAME,NAME,…")
INTEGERS = _listed(int, "N,N,…")
NUMBERS = _listed(float, "X,X,…")
PAIR = Parsed(_pair, "KIND=COLUMN")
WORKERS = Parsed(_workers, "N|MIN:MAX")


def _all(*options: Decorator) -> Decorator:
    """One decorator that adds all these options, in this order."""
    return lambda function: reduce(lambda inner, option: option(inner), options[::-1], function)


run_folder = click.option(
    "--out", required=True, type=FOLDER, metavar="RUN", help="Folder for the results."
)
dataset_folder = click.option(
    "--out", required=True, type=FOLDER, metavar="DATASET", help="Dataset folder to write."
)


def _use_storage_options(ctx: click.Context, _: click.Parameter, texts: tuple[str, ...]) -> None:
    """Put the options into the environment, where this process and its workers find them."""
    from backstay.storage.stores import VARIABLE, parse_options

    if not texts:
        return
    before = os.environ.get(VARIABLE)
    try:
        found = parse_options([*([before] if before else []), *texts])
    except ValueError as error:
        raise click.BadParameter(
            f"expected NAME=VALUE or a JSON object, found {' '.join(texts)}."
        ) from error
    os.environ[VARIABLE] = json.dumps(found)
    ctx.call_on_close(
        lambda: os.environ.update({VARIABLE: before}) if before else os.environ.pop(VARIABLE, None)
    )


storage_options = click.option(
    "--storage-options",
    multiple=True,
    metavar="NAME=VALUE|JSON",
    expose_value=False,
    callback=_use_storage_options,
    help="Option of the object store's driver, such as anon=true or endpoint_url=…, for every URL "
    "of the command; once for each, or a JSON object. Also: BACKSTAY_STORAGE_OPTIONS, as JSON.",
)
registry = _all(
    click.option(
        "--registry",
        required=True,
        envvar="BACKSTAY_REGISTRY",
        show_envvar=True,
        metavar="URI",
        help="Root of the registry: a path, or a URL such as s3://bucket/path.",
    ),
    storage_options,
)
space = _all(
    registry, click.option("--space", required=True, metavar="S", help="Name of the space.")
)
version = click.argument("version", metavar="VERSION", type=VERSION)
seed = click.option("--seed", type=int, help="Seed of everything random.")
profile = click.option(
    "--profile",
    type=click.Choice(["fast", "paper"]),
    default="fast",
    help="Settings to start from: minutes, or the paper's own.",
)
epochs_between = click.option(
    "--evaluate-every", type=POSITIVE, help="Epochs between two evaluations of a fit."
)
rate = click.option(
    "--rate", type=float, metavar="FACTOR", help="Multiply all learning rates by this."
)
new_dims = click.option(
    "--new-dims",
    type=click.IntRange(min=0),
    metavar="N",
    help="Dimensions by which each version is wider than the one before.",
)


plan = _all(  # the profile sets those that are left out
    profile,
    click.option("--dims", type=INTEGERS, help="D_0,D_1,…: one dimension for each version."),
    click.option("--layers", type=INTEGERS, help="Layers of each version, or one for all."),
    click.option("--slices", type=NUMBERS, help="T_0,T_1,…: one more than versions."),
    click.option(
        "--epochs",
        type=POSITIVE,
        help="Epochs when training from scratch; other phases scale with it.",
    ),
    epochs_between,
    rate,
    new_dims,
    click.option("--tuning-epochs", type=POSITIVE, help="Epochs of finetune."),
    click.option("--map-epochs", type=POSITIVE, help="Epochs of maps fitted after their model."),
    click.option("--seeds", type=POSITIVE, help="Seeds of each consumer."),
    click.option("--widths", type=INTEGERS, help="Hidden widths to choose a consumer's from."),
    click.option("--dropouts", type=NUMBERS, help="Dropouts to choose a consumer's from."),
    click.option("--consumer-epochs", type=POSITIVE, help="Epochs of each consumer."),
    seed,
)


def given(options: Mapping[str, object]) -> dict[str, Any]:
    """Only the options that were given, so that the package's defaults hold for the others."""
    return {
        name: value
        for name, value in options.items()
        if value is not None and value is not False and value != ()  # 0 counts as given
    }
