"""The measured speeds that a plan is computed from, and how each was measured."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

from backstay.errors import UsageError

MACHINE = "two cores of an AMD EPYC (family 25, model 17), 24 GiB, no GPU; November 2026"
"""Where all was measured whose source names no other machine."""

LEAST = 1e-12
"""The least value of a rate; the greatest is its inverse."""

GIVEN = "given by --rate"
"""The source of a figure that replaces a measured one."""


@dataclass(frozen=True, kw_only=True)
class Rate:
    """One measured figure."""

    value: float
    unit: str
    source: str  # the command that measured it, and its conditions


@dataclass(frozen=True, kw_only=True)
class Rates:
    """All figures that a plan needs. A worker has one core."""

    convert: Rate
    convert_speedup: Rate
    convert_start: Rate
    fit: Rate
    fit_speedup: Rate
    prepare: Rate
    evaluate: Rate
    embed: Rate
    fit_memory_base: Rate
    fit_memory: Rate
    requests: Rate
    ids: Rate

    def with_values(self, values: Mapping[str, float]) -> "Rates":
        """The same with other figures, by the names that `backstay plan` prints.

        Raises UsageError for an unknown name, or a value that no rate can have.
        """
        names = rate_names()
        for name, value in values.items():
            if name not in names:
                raise UsageError(f"--rate: expected one of {', '.join(names)}, found {name!r}.")
            if not LEAST <= value <= 1 / LEAST:
                raise UsageError(
                    f"--rate {name}: expected a number from {LEAST:g} to {1 / LEAST:g}, found "
                    f"{value:g}."
                )
        given = {
            names[name]: replace(getattr(self, names[name]), value=value, source=GIVEN)
            for name, value in values.items()
        }
        return replace(self, **given)


def rate_names() -> dict[str, str]:
    """The name of each figure as a user types it, and its field."""
    return {field.name.replace("_", "-"): field.name for field in fields(Rates)}


_TRAINING = "benchmarks/training.py --parts scaling, 10⁷ interactions, 1 thread"
_CONVERT = "benchmarks/convert.py --rows 2000000 --workers"

MEASURED = Rates(
    convert=Rate(value=131_230, unit="rows/s", source=f"{_CONVERT} 1, local, 256 → 256 dimensions"),
    convert_speedup=Rate(value=1.72, unit="×", source=f"{_CONVERT} 2, local: 225,097 rows/s"),
    convert_start=Rate(
        value=10.2,
        unit="s",
        source="benchmarks/convert.py, Ray: 2 · 10⁶ rows 19.22 s, twice 28.28 s",
    ),
    fit=Rate(value=3_710, unit="edges/s", source=f"{_TRAINING}, 320 dimensions"),
    fit_speedup=Rate(
        value=1.75,
        unit="×",
        source="benchmarks/training.py --parts workers, 10⁶ interactions, two cores of a Xeon",
    ),
    prepare=Rate(value=633_000, unit="interactions/s", source=_TRAINING),
    evaluate=Rate(value=13_450, unit="rows/s", source=f"{_TRAINING}, 20,000 users judged"),
    embed=Rate(value=43_370, unit="rows/s", source=f"{_TRAINING}, 320 dimensions"),
    fit_memory_base=Rate(
        value=652e6, unit="bytes", source="benchmarks/training.py: 1,010 MB for 10⁶ interactions"
    ),
    fit_memory=Rate(
        value=358, unit="bytes each", source="benchmarks/training.py: 4,233 MB for 10⁷ interactions"
    ),
    requests=Rate(
        value=841,
        unit="requests/s",
        source="benchmarks/serving.py --sections service: 1,682 on two cores, with the load",
    ),
    ids=Rate(
        value=3_370_000,
        unit="ids/s",
        source="benchmarks/serving.py --sections core: 1,000 rows of a view in 297 µs",
    ),
)
