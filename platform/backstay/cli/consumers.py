"""`backstay consumers`: the contracts of those who read a space."""

import re
from dataclasses import asdict

import click

from backstay.cli import options
from backstay.cli.versions import open_space
from backstay.errors import RegistryError
from backstay.terminal import Command, Output

_METRIC = re.compile(r"roc-auc|accuracy|rmse|cosine|recall@[1-9][0-9]*")


class _Metric(click.ParamType[tuple[str, int | None]]):
    """The name of a metric, and K of Recall@K."""

    name = "METRIC"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, int | None]:
        """Split recall@K."""
        if not _METRIC.fullmatch(str(value)):
            self.fail(
                f"expected roc-auc, accuracy, rmse, cosine or recall@K; found {value!r}.",
                param,
                ctx,
            )
        name, _, k = str(value).partition("@")
        return name, int(k) if k else None


_name = click.argument("name", metavar="NAME")


@click.group()
def consumers() -> None:
    """Say who reads which version, and what loss they tolerate."""


@consumers.command(
    cls=Command,
    example="backstay consumers add ranking --registry registry --space movies --reads 0 "
    "--contact ranking@example.org --metric roc-auc --table clicks.parquet "
    "--model ranking.onnx --tolerance 0.01",
)
@_name
@options.space
@click.option("--contact", required=True, help="Whom to ask about this consumer.")
@click.option(
    "--reads",
    "version",
    required=True,
    type=options.VERSION,
    metavar="J",
    help="Version whose vectors the consumer reads.",
)
@click.option(
    "--metric",
    type=_Metric(),
    help="roc-auc, accuracy, rmse, cosine or recall@K.  [default: the version stays readable]",
)
@click.option(
    "--table",
    type=options.FILE,
    help="Parquet or CSV with columns id and label, or user, item and label.",
)
@click.option("--entity", help="Entity of the column id.")
@click.option(
    "--model",
    type=options.FILE,
    help="Frozen model, *.safetensors of a Backstay consumer or *.onnx.  [default: dot products]",
)
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0),
    default=0.01,
    help="Largest loss of the metric, in its own unit.",
)
@click.option(
    "--policy",
    type=click.Choice(["refuse", "warn"]),
    default="refuse",
    help="What a larger loss does to an update.",
)
def add(registry: str, space: str, **settings: object) -> object:
    """Add the contract of a consumer.

    Measures the metric on the version as it is now. Every later update is checked against it before
    it is published.
    """
    from backstay.evaluation.contracts.add import ContractRequest, add_contract

    given = options.given(settings)
    given["metric"], given["k"] = given.get("metric", (None, None))
    return add_contract(open_space(registry, space), ContractRequest(**given))


@consumers.command(
    "list", cls=Command, example="backstay consumers list --registry registry --space movies"
)
@options.space
def list_(registry: str, space: str) -> object:
    """List the active contracts of a space."""
    from backstay.registry.contracts import contracts

    columns = ("name", "contact", "version", "metric", "baseline", "tolerance", "policy")
    found = contracts(open_space(registry, space))
    return [{name: getattr(contract, name) for name in columns} for contract in found]


@consumers.command(
    cls=Command, example="backstay consumers show ranking --registry registry --space movies"
)
@_name
@options.space
def show(registry: str, space: str, name: str) -> object:
    """Show a contract and its earlier records."""
    from backstay.registry.contracts import contract, history

    opened = open_space(registry, space)
    return {"contract": contract(opened, name), "history": history(opened, name)}


@consumers.command(
    cls=Command, example="backstay consumers check --registry registry --space movies 2"
)
@options.space
@click.argument("version", metavar="[VERSION]", required=False, type=options.VERSION)
@click.pass_obj
def check(output: Output, /, registry: str, space: str, version: int | None) -> None:
    """Check a published version against all contracts.

    Checks the newest version, or the one that is named. Exits 1 if a contract refuses it.
    """
    from backstay.evaluation.contracts.check import run_contracts
    from backstay.evaluation.contracts.vectors import PublishedVectors

    opened = open_space(registry, space)
    version = opened.manifest(opened.latest() if version is None else version).version
    verdicts = run_contracts(opened, PublishedVectors(opened, version))
    output.show({"space": space, "version": version, "verdicts": [*map(asdict, verdicts)]})
    refusing = [verdict.consumer for verdict in verdicts if verdict.verdict == "refuse"]
    if refusing:
        raise RegistryError(
            f"version {version} of {space} breaks the contracts of {', '.join(refusing)}; the list "
            "has the figures. Keep serving an older version, or publish a better one."
        )


@consumers.command(
    cls=Command, example="backstay consumers remove ranking --registry registry --space movies"
)
@_name
@options.space
def remove(registry: str, space: str, name: str) -> object:
    """End a contract. Its records stay."""
    from backstay.registry.contracts import remove as run

    return run(open_space(registry, space), name)


COMMANDS = (consumers,)
