"""Types of options, and the options that several commands share."""

from collections.abc import Callable, Mapping
from functools import reduce
from pathlib import Path
from typing import Any, Generic, TypeVar

import click

T = TypeVar("T", int, float, str)
Function = TypeVar("Function", bound=Callable[..., object])
Decorator = Callable[[Function], Function]

FOLDER = click.Path(path_type=Path, file_okay=False)
FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
DATASET = click.Path(path_type=Path, exists=True, file_okay=False)
POSITIVE = click.IntRange(min=1)
VERSION = click.IntRange(min=0)
SECONDS = click.FloatRange(min=0, min_open=True)
POSITION = click.FloatRange(0, 1, min_open=True)


class CommaList(click.ParamType[tuple[T, ...]], Generic[T]):
    """Values separated by commas, as a tuple."""

    def __init__(self, item: Callable[[str], T], name: str) -> None:
        self.item: Callable[[str], T] = item
        self.name = name

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[T, ...]:
        """Parse the parts."""
        try:
            return tuple(self.item(part.strip()) for part in str(value).split(",") if part.strip())
        except ValueError:
            self.fail(f"expected {self.name}, found {value!r}.", param, ctx)


class Pair(click.ParamType[tuple[str, str]]):
    """KIND=COLUMN, as a pair."""

    name = "KIND=COLUMN"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        """Split at the first equals sign."""
        kind, equals, column = str(value).partition("=")
        if not (kind and equals and column):
            self.fail(f"expected {self.name}, found {value!r}.", param, ctx)
        return kind, column


class Workers(click.ParamType[int | tuple[int, int]]):
    """N, or MIN:MAX as a pair."""

    name = "N|MIN:MAX"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | tuple[int, int]:
        """Parse one number or two."""
        least, colon, most = str(value).partition(":")
        try:
            found = int(least), int(most if colon else least)
        except ValueError:
            found = -1, -1
        if not int(bool(colon)) <= found[0] <= found[1]:
            self.fail(
                f"expected a number of workers, or MIN:MAX with 1 ≤ MIN ≤ MAX; found {value!r}.",
                param,
                ctx,
            )
        return found if colon else found[0]


NAMES = CommaList(str, "NAME,NAME,…")
INTEGERS = CommaList(int, "N,N,…")
NUMBERS = CommaList(float, "X,X,…")


def _all(*options: Decorator[Function]) -> Decorator[Function]:
    """One decorator that adds all these options, in this order."""
    return lambda function: reduce(lambda inner, option: option(inner), options[::-1], function)


def run_folder(function: Function) -> Function:
    """Add --out, the folder of a run."""
    return click.option(
        "--out", required=True, type=FOLDER, metavar="RUN", help="Folder for the results."
    )(function)


def dataset_folder(function: Function) -> Function:
    """Add --out, the dataset folder to write."""
    return click.option(
        "--out", required=True, type=FOLDER, metavar="DATASET", help="Dataset folder to write."
    )(function)


def registry(function: Function) -> Function:
    """Add --registry."""
    return click.option(
        "--registry",
        required=True,
        envvar="BACKSTAY_REGISTRY",
        show_envvar=True,
        metavar="URI",
        help="Root of the registry: a path, or a URL such as s3://bucket/path.",
    )(function)


def space(function: Function) -> Function:
    """Add --registry and --space."""
    return registry(
        click.option("--space", required=True, metavar="S", help="Name of the space.")(function)
    )


def version(function: Function) -> Function:
    """Add the argument VERSION."""
    return click.argument("version", metavar="VERSION", type=VERSION)(function)


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


def plan(function: Function) -> Function:
    """Add the options of a comparison's plan. The profile sets those that are left out."""
    return _all(
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
        click.option("--tuning-epochs", type=POSITIVE, help="Epochs of finetune."),
        click.option(
            "--map-epochs", type=POSITIVE, help="Epochs of maps fitted after their model."
        ),
        click.option("--seeds", type=POSITIVE, help="Seeds of each consumer."),
        click.option("--widths", type=INTEGERS, help="Hidden widths to choose a consumer's from."),
        click.option("--dropouts", type=NUMBERS, help="Dropouts to choose a consumer's from."),
        click.option("--consumer-epochs", type=POSITIVE, help="Epochs of each consumer."),
        seed,
    )(function)


def given(options: Mapping[str, object]) -> dict[str, Any]:
    """Only the options that were given, so that the package's defaults hold for the others."""
    left_out: tuple[object, ...] = (None, (), False)
    return {
        name: value
        for name, value in options.items()
        if not any(value is nothing for nothing in left_out)  # 0 counts as given
    }
