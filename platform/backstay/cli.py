"""The command line: one thin command per verb.

A command imports what it needs when it runs, calls one function of the package, and returns its
answer; `backstay.terminal` does the rest.
"""

from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

import backstay
from backstay.errors import CorruptError, InputError
from backstay.terminal import Command, Output

if TYPE_CHECKING:
    from backstay.registry.store import Space

_Function = TypeVar("_Function", bound=Callable[..., Any])

FORMATS = ("amazon", "movielens", "movietweetings", "recbole", "table")

_FOLDER = click.Path(path_type=Path, file_okay=False)
_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
_DATASET = click.Path(path_type=Path, exists=True, file_okay=False)
_POSITIVE = click.IntRange(min=1)
_SECONDS = click.FloatRange(min=0, min_open=True)
_POSITION = click.FloatRange(0, 1, min_open=True)


class _List(click.ParamType[tuple[Any, ...]]):
    """Values between commas, as a tuple."""

    def __init__(self, item: Callable[[str], Any], name: str) -> None:
        self.item, self.name = item, name

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[Any, ...]:
        if isinstance(value, tuple):
            return value
        try:
            return tuple(self.item(part.strip()) for part in str(value).split(",") if part.strip())
        except ValueError:
            self.fail(f"{value!r} is no list of {self.name}.", param, ctx)


class _Pair(click.ParamType[tuple[str, str]]):
    """KIND=COLUMN, as a pair."""

    name = "KIND=COLUMN"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        kind, equals, column = str(value).partition("=")
        if not (kind and equals and column):
            self.fail(f"{value!r} must be {self.name}.", param, ctx)
        return kind, column


class _Workers(click.ParamType[int | tuple[int, int]]):
    """N, or MIN:MAX."""

    name = "N|MIN:MAX"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | tuple[int, int]:
        least, colon, most = str(value).partition(":")
        try:
            found = int(least), int(most if colon else least)
        except ValueError:
            found = -1, -1
        if not int(bool(colon)) <= found[0] <= found[1]:
            self.fail(
                f"{value!r} is no number of workers, nor MIN:MAX with 1 ≤ MIN ≤ MAX.", param, ctx
            )
        return found if colon else found[0]


_NAMES = _List(str, "NAME,NAME,…")
_INTEGERS = _List(int, "N,N,…")
_NUMBERS = _List(float, "X,X,…")


@click.group(
    context_settings={
        "help_option_names": ["-h", "--help"],
        "max_content_width": 100,
        "show_default": True,
    }
)
@click.version_option(backstay.__version__, prog_name="backstay")
def main() -> None:
    """Keep updating embeddings. Break no consumer."""


def _verb(*, example: str) -> Callable[[Callable[..., Any]], click.Command]:
    return main.command(cls=Command, example=example)


def _registry(function: _Function) -> _Function:
    return click.option(
        "--registry",
        required=True,
        envvar="BACKSTAY_REGISTRY",
        show_envvar=True,
        metavar="URI",
        help="Root of the registry: a path, or a URL such as s3://bucket/path.",
    )(function)


def _space(function: _Function) -> _Function:
    option = click.option("--space", required=True, metavar="S", help="Name of the space.")
    return _registry(option(function))


def _version(function: _Function) -> _Function:
    return click.argument("version", metavar="VERSION", type=click.IntRange(min=0))(function)


@_verb(example="backstay demo --out demo")
@click.option("--out", type=_FOLDER, default="demo", help="Folder for everything it writes.")
@click.pass_obj
def demo(output: Output, /, out: Path) -> None:
    """Run the whole loop on the built-in marketplace.

    Data, versions, comparison, conversion, one served look-up, and a report, in a few minutes.
    Nothing is left running.
    """
    from backstay import demo as package

    report = package.run(out=out)
    output.tell(report, picture=package.picture(report))


@_verb(example="backstay ingest --format movielens ml-25m/ --out datasets/ml-25m")
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--format", "format", required=True, type=click.Choice(FORMATS))
@click.option("--out", required=True, type=_FOLDER, metavar="DATASET", help="Folder to write.")
@click.option("--name", help="What reports call it.  [default: the folder's name]")
@click.option("--strict", is_flag=True, help="Refuse the first bad row instead of counting it.")
@click.option("--rating-scale", type=float, help="Greatest rating possible (recbole, table).")
@click.option(
    "--time-unit",
    type=click.Choice(["auto", "s", "ms", "us", "ns"]),
    default="auto",
    help="Of timestamps that are numbers (recbole, table).",
)
@click.option("--user", metavar="COLUMN", help="table: the users' ids.  [default: user_id]")
@click.option("--item", metavar="COLUMN", help="table: the items' ids.  [default: item_id]")
@click.option("--rating", metavar="COLUMN", help="table: the ratings.  [default: rating]")
@click.option("--time", metavar="COLUMN", help="table: when.  [default: timestamp]")
@click.option(
    "--attribute",
    "attributes",
    multiple=True,
    metavar="KIND=COLUMN",
    type=_Pair(),
    help="table: an attribute of the items; may be repeated.",
)
@click.option("--items", type=_FILE, help="table: where attributes are, if not beside the ratings.")
@click.option("--integer-ids", is_flag=True, help="table: ids in text are integers.")
@click.option("--memory-limit", default="1GB", help="What sorting may hold in memory.")
def ingest(paths: tuple[Path, ...], **options: Any) -> Any:
    """Read a public format into a dataset folder.

    PATHS are files, or the folder that holds them. Rows that can't be read are left out, counted
    and named in the answer.
    """
    from backstay.datasets.columns import Columns
    from backstay.datasets.ingest import ingest as run

    given = _given(options)
    columns = {name: given.pop(name) for name in _COLUMNS if name in given}
    return run(paths, columns=Columns(**columns) if columns else None, **given)


_COLUMNS = ("user", "item", "rating", "time", "attributes", "items", "integer_ids")


@_verb(example="backstay marketplace --interactions 1000000 --out datasets/marketplace")
@click.option("--out", required=True, type=_FOLDER, metavar="DATASET", help="Folder to write.")
@click.option("--interactions", type=_POSITIVE, default=30_000, help="2,000 to 50 million.")
@click.option("--users", type=_POSITIVE, help="How many.  [default: grows with interactions]")
@click.option("--items", type=_POSITIVE, help="How many.  [default: grows with interactions]")
@click.option("--drift", type=click.FloatRange(min=0), default=1.0, help="How fast tastes move.")
@click.option("--seed", type=int, default=0)
def marketplace(out: Path, **size: Any) -> Any:
    """Generate the built-in marketplace, of any size.

    The same options give the same rows.
    """
    from backstay.datasets.marketplace import MarketplaceConfig, generate

    return generate(MarketplaceConfig(**_given(size)), out)


_PLAN = (
    click.option("--profile", type=click.Choice(["fast", "paper"]), default="fast"),
    click.option("--dims", type=_INTEGERS, help="D_0,D_1,…: one version for each."),
    click.option("--layers", type=_INTEGERS, help="Layers of each version, or one for all."),
    click.option("--slices", type=_NUMBERS, help="T_0,T_1,…: one more than versions."),
    click.option("--epochs", type=_POSITIVE, help="Epochs of a fresh start; others in proportion."),
    click.option("--evaluate-every", type=_POSITIVE, help="Epochs between two looks at a fit."),
    click.option("--tuning-epochs", type=_POSITIVE, help="Epochs of finetune."),
    click.option("--map-epochs", type=_POSITIVE, help="Epochs of maps fitted afterwards."),
    click.option("--seeds", type=_POSITIVE, help="Seeds of each consumer."),
    click.option("--widths", type=_INTEGERS, help="Hidden widths a consumer may have."),
    click.option("--dropouts", type=_NUMBERS, help="Dropouts a consumer may have."),
    click.option("--consumer-epochs", type=_POSITIVE, help="Epochs of each consumer."),
    click.option("--seed", type=int, help="Reaches everything random."),
)
"""Left out, they follow the profile."""


def _plan(function: _Function) -> _Function:
    for option in reversed(_PLAN):
        function = option(function)
    return function


@_verb(
    example="backstay compare datasets/ml-25m --out runs/ml-25m "
    "--methods fix-m0,no-bc,bc-aligner --dims 128,160,192"
)
@click.argument("paths", nargs=-1, required=True, metavar="DATASET | --tables TABLE TABLE…")
@click.option("--tables", is_flag=True, help="Compare maps between your own embedding tables.")
@click.option("--out", required=True, type=_FOLDER, metavar="RUN", help="Folder for the results.")
@click.option("--methods", type=_NAMES, help="Update methods, or maps; commas.  [default: all]")
@_plan
@click.option("--weight", type=float, help="λ, the weight of the alignment loss.")
@click.option("--workers", type=_POSITIVE, help="Tasks at the same time; 1: without Ray.")
@click.option("--sample", type=_POSITIVE, help="--tables: ids to fit on.  [default: 100,000]")
@click.pass_context
def compare(
    ctx: click.Context, /, paths: tuple[str, ...], tables: bool, out: Path, **options: Any
) -> None:
    """Compare update methods: every method, version and consumer.

    Writes results.json, which is also the answer, report.html and the figures. Options that are
    left out follow the profile.

    With --tables, compare maps back between embedding tables of your own, oldest first: Parquet
    files, or folders of them, with the columns id and embedding. Maps are fitted on a sample of the
    ids and judged on held-out ones; writes tables.json, which is the answer, and report.html. Goes
    with --methods, --sample and --seed.

    backstay compare --tables v0.parquet v1.parquet --out runs/mine
    """
    _refuse_misplaced(ctx, tables=tables)
    if tables:
        from backstay.evaluation.table_maps import compare as own_vectors
        from backstay.evaluation.table_maps import report

        found = own_vectors.compare_tables(paths, out=out, **_given(options, only=_OF_TABLES))
        report.write_comparison(found, out)
        ctx.obj.tell(found, picture=report.terminal_picture(found))
        return
    from backstay.engines.compare import compare as run
    from backstay.evaluation.report.report import terminal_table

    dataset = _DATASET.convert(paths[0], None, ctx)
    results = run(dataset, out=out, **_given(options))
    ctx.obj.tell(results, picture=terminal_table(results))


_OF_TABLES = ("methods", "sample", "seed")


def _refuse_misplaced(ctx: click.Context, *, tables: bool) -> None:
    """UsageError for what makes sense only with --tables, or only without."""
    if not tables and len(ctx.params["paths"]) > 1:
        raise click.UsageError(
            f"expected one dataset, found {len(ctx.params['paths'])} paths; --tables compares "
            "embedding tables.",
            ctx,
        )
    ours = ("paths", "tables", "out", *_OF_TABLES)
    for name in ctx.params:
        given = ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
        if given and (name not in ours if tables else name == "sample"):
            raise click.UsageError(
                f"--{name} goes {'without' if tables else 'with'} --tables only.", ctx
            )


@_verb(
    example="backstay update --registry registry --space movies --dataset datasets/ml-25m "
    "--until 0.6 --dim 320"
)
@_space
@click.option("--dataset", required=True, type=_DATASET, help="The dataset folder.")
@click.option("--until", required=True, type=_POSITION, help="Position on the timeline, 0 … 1.")
@click.option("--window", type=_POSITION, help="Length of the timeline after T that judges it.")
@click.option("--method", default="bc-aligner", help="How the model and its map are obtained.")
@click.option("--weight", type=float, help="λ of the alignment loss.  [default: fast 1, paper 16]")
@click.option("--dim", type=_POSITIVE, help="Dimension.  [default: wider than the version before]")
@click.option("--layers", type=_POSITIVE, help="Layers of the model.  [default: 2, later 3]")
@click.option("--profile", type=click.Choice(["fast", "paper"]), default="fast", help="Recipe.")
@click.option(
    "--architecture",
    type=click.Choice(["pinsage", "lightgcn", "factorisation"]),
    default="pinsage",
    help="The embedding model.",
)
@click.option("--epochs", type=_POSITIVE, help="Epochs of the fit.  [default: the profile's]")
@click.option("--batch-size", type=_POSITIVE, help="Training triples per step.")
@click.option("--evaluate-every", type=_POSITIVE, help="Epochs between two looks at the recall.")
@click.option(
    "--sampling",
    type=click.Choice(["auto", "full", "neighbours"]),
    help="Learn from the whole graph, or from sampled neighbours.  [default: by the size]",
)
@click.option("--fan-out", type=_POSITIVE, help="Neighbours sampled per node and layer.")
@click.option("--groups", type=_POSITIVE, help="Sampled graphs of a batch: the most workers.")
@click.option("--seed", type=int, help="Reaches everything random.")
@click.option(
    "--workers",
    type=_Workers(),
    help="Training workers, or MIN:MAX of them; 0: this process.  [default: 0; on a cluster 1]",
)
@click.option("--gpu", is_flag=True, help="One GPU for each worker.")
@click.option("--checkpoints", metavar="URI", help="Where checkpoints go: a path or a URL.")
@click.option("--checkpoint-seconds", type=_SECONDS, help="Longest work that a crash may cost.")
@click.option("--log-dir", type=_FOLDER, help="For TensorBoard's events and fit_report.json.")
@click.option("--run-name", help="Name of the run; the same name resumes after a crash.")
def update(**options: Any) -> Any:
    """Fit the next version and publish it.

    The model is trained on the timeline up to T, together with its map back to the version before,
    evaluated and published. Run again after a crash, it resumes from its last checkpoint.
    """
    from backstay.engines.update import UpdateConfig
    from backstay.engines.update import update as run

    return run(UpdateConfig(**_given(options)))


@_verb(example="backstay tune datasets/ml-25m --out runs/weights --weights 1,4,16,64")
@click.argument("dataset", type=_DATASET)
@click.option("--out", required=True, type=_FOLDER, metavar="RUN", help="Folder for the results.")
@click.option("--weights", type=_NUMBERS, help="λ to try.  [default: the search chooses]")
@click.option("--trials", type=_POSITIVE, help="How many weights the search chooses.")
@click.option("--method", default="bc-aligner", help="The update method whose weight is searched.")
@_plan
@click.option("--workers", type=_POSITIVE, help="Trials at the same time.")
def tune(dataset: Path, out: Path, **options: Any) -> Any:
    """Search the compatibility weight λ.

    Each trial fits versions with one weight; the answer is the Pareto front of the intended task
    against the consumers. Options that are left out follow the profile. Run again after a crash,
    it keeps the finished trials.
    """
    from backstay.engines.search import search

    return search(dataset, out=out, **_given(options))


@_verb(
    example="backstay convert --registry registry --space movies --from 4 --to 0 "
    "--input items.parquet --output items-v0"
)
@_space
@click.option("--from", "source", required=True, type=click.IntRange(min=0), metavar="K")
@click.option("--to", "target", required=True, type=click.IntRange(min=0), metavar="J")
@click.option("--input", "input_", required=True, metavar="PARQUET", help="File, folder or URL.")
@click.option("--output", required=True, metavar="DIR", help="Folder or URL to write.")
@click.option("--workers", type=_POSITIVE, help="Parts converted at the same time, with Ray.")
@click.option("--engine", type=click.Choice(["auto", "local", "ray"]), default="auto")
def convert(registry: str, space: str, input_: str, **options: Any) -> Any:
    """Convert a table of version K to the older version J."""
    from backstay.engines.convert import convert as run

    return run(registry=registry, space=space, input=input_, **_given(options))


@_verb(example="backstay serve --registry registry --port 8000")
@_registry
@click.option("--host", default="127.0.0.1", help="Address to listen on; 0.0.0.0: every one.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, help="0: any free one.")
@click.option("--replicas", type=_POSITIVE, default=1, help="Processes that answer.")
@click.option("--cache", type=_FOLDER, help="Local folder for copies of remote tables.")
@click.option("--refresh-seconds", type=float, default=5.0, help="Look for new versions so often.")
@click.option("--max-ids", type=_POSITIVE, default=10_000, help="Most ids in one request.")
@click.pass_obj
def serve(output: Output, /, registry: str, **options: Any) -> None:
    """Serve look-ups over HTTP until interrupted.

    Answers for every version out of the newest table. Prints its URL once it answers.
    """
    from backstay.serving.service import run

    run(registry, on_ready=lambda url: output.tell({"url": url}), **_given(options))


@_verb(example="backstay versions --registry registry --space movies")
@_space
def versions(registry: str, space: str) -> Any:
    """List the published versions of a space."""
    opened = _open(registry, space)
    opened.latest()  # says so where there is none
    return [_summary(opened, version) for version in opened.versions()]


@_verb(example="backstay show --registry registry --space movies 2")
@_space
@_version
def show(registry: str, space: str, version: int) -> Any:
    """Show one version: its manifest and its metrics."""
    opened = _open(registry, space)
    manifest = opened.manifest(version)
    return {
        "manifest": manifest,
        "metrics": opened.metrics(version) if "metrics.json" in manifest.files else {},
        "retired": opened.retired(version),
    }


@_verb(example="backstay verify --registry registry --space movies")
@_space
@click.argument("version", metavar="[VERSION]", required=False, type=click.IntRange(min=0))
@click.pass_obj
def verify(output: Output, /, registry: str, space: str, version: int | None) -> None:
    """Check published files against their manifests.

    Of one version, or of all. Exits 1 where anything is not as it was published.
    """
    opened = _open(registry, space)
    opened.latest()
    chosen = opened.versions() if version is None else [version]
    problems = [
        {"version": number, **asdict(problem)}
        for number in chosen
        for problem in opened.verify(number)
    ]
    output.tell({"space": space, "verified": chosen, "problems": problems})
    if problems:
        raise CorruptError(
            f"{len(problems)} files of {space} are not as they were published: see the list. "
            "Restore them from a copy."
        )


@_verb(example='backstay retire --registry registry --space movies 0 --reason "nobody reads it"')
@_space
@_version
@click.option("--reason", default="", help="Kept with the version.")
@click.option("--force", is_flag=True, help="Even if its vectors can't be read any other way.")
def retire(registry: str, space: str, version: int, reason: str, force: bool) -> Any:
    """Remove a version's tables and model.

    It stays readable: as a virtual version, out of the newest table.
    """
    return _open(registry, space).retire(version, reason=reason, force=force)


def _open(registry: str, space: str) -> "Space":
    from backstay.registry.store import Registry

    if "://" not in registry and not Path(registry).is_dir():
        raise InputError(f"{registry} is no registry: there is no such folder. Check --registry.")
    return Registry(registry).space(space)


def _summary(space: "Space", version: int) -> dict[str, Any]:
    manifest = space.manifest(version)
    return {
        "version": version,
        "method": manifest.method,
        "dim": manifest.dim,
        "until": manifest.dataset.until,
        "rows": {name: entity.rows for name, entity in manifest.entities.items()},
        "bytes": sum(entry.size for entry in manifest.files.values()),
        "created": manifest.created,
        "retired": retirement.retired if (retirement := space.retired(version)) else None,
    }


def _given(options: dict[str, Any], *, only: Iterable[str] | None = None) -> dict[str, Any]:
    """The options without those left out, so that the package's defaults hold; or some of them."""
    left_out = (None, (), False)
    return {
        name: options[name]
        for name in (options if only is None else only)
        if not any(options[name] is nothing for nothing in left_out)  # 0 is a choice
    }
