"""What a conversion is asked for, and what it reports."""

from dataclasses import dataclass
from typing import Literal

from backstay.engines.conversion.input import Unreadable
from backstay.errors import UsageError
from backstay.registry.table_layout import FloatType
from backstay.storage.ids import IdType

Engine = Literal["auto", "local", "ray"]
OnError = Literal["refuse", "quarantine"]


@dataclass(frozen=True, kw_only=True)
class ConvertConfig:
    """A table to convert, and how."""

    registry: str
    """The registry's root, which has the maps: a path or URL."""
    space: str
    """The space of the table."""
    source: int
    """The version of the input."""
    targets: tuple[int, ...]
    """The versions wanted, none newer than `source`."""
    input: str | None = None
    """A Parquet file or folder, or its URL; by default the table that the registry has."""
    output: str
    """Folder or URL to write. With several targets it gets a folder v<j> for each."""
    entity: str | None = None
    """The entity of the ids; by default the table's label, or the version's only table."""
    id_column: str = "id"
    """The column of ids: strings or integers."""
    embedding_column: str = "embedding"
    """The column of vectors: lists of float16, float32 or float64, or fixed-size binary."""
    assume_version: int | None = None
    """The version of a table without a label; must be `source`."""
    dtype: FloatType = "float32"
    """The float type of the output."""
    on_error: OnError = "refuse"
    """Refuse bad rows, or set them aside in `rejected/` ("quarantine")."""
    workers: int | None = None
    """Most parts converted at once; by default one for each CPU, and one more in this process."""
    engine: Engine = "auto"
    """Threads of this process, or tasks of Ray Data. "auto" takes Ray on a cluster."""

    def __post_init__(self) -> None:
        if not self.targets or len(set(self.targets)) != len(self.targets):
            raise UsageError(f"targets must be versions, each once; found {self.targets}.")

    @property
    def folders(self) -> tuple[str, ...]:
        """The folder of each target's table in the output."""
        return tuple(f"v{j}" for j in self.targets) if len(self.targets) > 1 else ("",)


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Some rows of a target's table, read back and recomputed in float64."""

    rows: int
    largest_error: float  # of a number
    least_cosine: float | None  # of a row with its recomputed one; None where no row has a length


@dataclass(frozen=True, kw_only=True)
class ConvertedTable:
    """One table of the output."""

    version: int
    dim: int
    path: str
    size: int  # bytes
    sample: Sample


@dataclass(frozen=True, kw_only=True)
class ConvertReport:
    """The size and speed of a conversion that is done."""

    job: str  # the same for the same input, maps and options
    space: str
    entity: str
    source: int  # version of the input
    targets: tuple[int, ...]
    dims: tuple[int, ...]  # of source and targets
    rows: int  # read; written + set_aside
    written: int
    set_aside: int  # in rejected/, or unreadable
    parts: int
    resumed: int  # parts that an earlier run had finished
    id_type: IdType
    extra_columns: tuple[str, ...]  # beside id and embedding, passed through
    engine: Literal["local", "ray"]
    seconds: float
    rows_per_second: float
    input: str
    output: str
    tables: tuple[ConvertedTable, ...]
    unreadable: tuple[Unreadable, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ConvertEstimate:
    """What a conversion would take. The seconds are scaled from a sample in memory."""

    rows: int
    parts: int
    targets: tuple[int, ...]
    dims: tuple[int, ...]
    input_bytes: int  # of all columns, decompressed
    output_bytes: int
    memory_bytes: int  # of all workers
    workers: int
    seconds: float
    engine: Literal["local", "ray"]
    input: str
    output: str
