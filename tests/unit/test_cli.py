"""The command line: rules for all commands, options, and the registry's commands."""

import json
import logging
import math
import re
import shlex
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from backstay import errors
from backstay.cli import all_commands, main
from backstay.registry.store import Registry
from backstay.terminal import Command, plain
from tests.support.builders import fill
from tests.support.processes import ROOT, run_python, start_python

CONTRACT = {
    *(
        "demo",
        "ingest",
        "compare",
        "compare-tables",
        "update",
        "tune",
        "convert",
        "serve",
        "lookup",
    ),
    *("versions", "show", "verify", "retire", "gc", "promote", "rollback"),
    *("tokens add", "tokens list", "tokens revoke"),
}
COMMANDS = sorted(all_commands())
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


# Rules for all commands.


def test_every_command_of_the_contract_is_there():
    assert set(COMMANDS) >= CONTRACT


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_a_sentence_for_every_option_and_an_example(name):
    result = run(*name.split(), "--help")
    assert result.exit_code == 0
    _, _, example = result.stdout.partition("Example:\n")
    assert example.strip().startswith(f"backstay {name}")
    assert {"--json", "--debug"} <= set(result.stdout.split())
    command = all_commands()[name]
    assert command.help
    undocumented = [
        option.name
        for option in command.params
        if isinstance(option, click.Option) and not option.help
    ]
    assert undocumented == []


def parse(name: str, words: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parse the words without running the command."""
    monkeypatch.chdir(folder)
    for dataset in ("ml-100k", "ml-25m", "datasets/ml-25m", "datasets/marketplace"):
        Path(dataset).mkdir(parents=True, exist_ok=True)
    files = ("orders.parquet", "clicks.parquet", "ranking.onnx", "ids.csv", "cert.pem", "key.pem")
    for file in files:
        Path(file).touch()
    best = Path("runs/search/best.yaml")
    best.parent.mkdir(parents=True, exist_ok=True)
    best.write_text("update: {}")
    all_commands()[name].make_context(name, words).close()


@pytest.mark.parametrize("name", COMMANDS)
def test_the_example_can_be_parsed(name, tmp_path, monkeypatch):
    command = all_commands()[name]
    assert isinstance(command, Command)
    words = shlex.split(command.epilog.partition("Example:\n")[2])
    parse(name, words[1 + len(name.split()) :], tmp_path, monkeypatch)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_documents_commands_can_be_parsed(document, tmp_path, monkeypatch):
    lines = document.read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
    commands = [line for line in lines if line.startswith("backstay ")]
    if document.name in {"README.md", "tutorial.md"}:
        assert len(commands) > 5
    for command in commands:
        _, name, *words = shlex.split(command.partition(" > ")[0], comments=True)
        if isinstance(main.commands[name], click.Group):
            name = f"{name} {words.pop(0)}"
        parse(name, words, tmp_path, monkeypatch)


@pytest.mark.parametrize("name", COMMANDS)
def test_an_unknown_option_exits_2(name):
    result = run(*name.split(), "--nonsense")
    assert result.exit_code == 2
    assert "--nonsense" in result.stderr
    assert result.stdout == ""


def test_help_loads_neither_ray_nor_torch_nor_tables():
    heavy = ("ray", "torch", "pyarrow", "numpy", "pandas", "duckdb", "rich")
    code = (
        "import sys; import backstay; import backstay.cli\n"
        "try: backstay.cli.main(['update', '--help'])\n"
        "except SystemExit: pass\n"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    result = run_python("-c", code)
    assert result.stdout.splitlines()[-1] == "[]", result.stderr


def test_python_m_backstay_is_the_command():
    result = run_python("-m", "backstay", "--help")
    assert result.returncode == 0
    assert result.stdout.startswith("Usage: backstay ")


# Answers, progress and failures.


@dataclass(frozen=True)
class Point:
    place: Path
    score: float


def invoke(function: Callable[[], Any], *arguments: str) -> Result:
    @click.command(cls=Command, example="act")
    def act() -> Any:
        return function()

    return CliRunner().invoke(act, arguments)


def test_json_is_one_document_whatever_else_is_printed():
    def act():
        click.echo("a library prints")
        logging.getLogger("backstay.test").info("a milestone")
        logging.getLogger("backstay.test").debug("a detail")
        return [Point(Path("a/b"), math.nan)]

    result = invoke(act, "--json")
    assert json.loads(result.stdout) == [{"place": "a/b", "score": None}]
    assert "a library prints" in result.stderr
    assert "a milestone" in result.stderr
    assert "a detail" not in result.stderr
    assert "a detail" in invoke(act, "--json", "--debug").stderr


def test_ray_s_messages_are_shown_with_debug_only():
    def act():
        logging.getLogger("backstay.ray").debug("(raylet) graceful_shutdown")

    assert "raylet" not in invoke(act).stderr
    assert "raylet" in invoke(act, "--debug").stderr


def test_without_json_an_answer_is_lines_and_tables():
    answer = {
        "space": "movies",
        "files": {"size": 12, "names": ["[a]", "b"]},
        "summary": [
            {"method": "no-bc", "recall": 0.30261, "note": None},
            {"method": "fix-m0", "recall": 12345.678},
        ],
    }
    lines = [line.rstrip() for line in invoke(lambda: answer).stdout.splitlines()]
    assert lines[:3] == ["space        movies", "files.size   12", "files.names  [a], b"]
    assert lines[3] == "summary"
    assert [line.split() for line in lines[4:]] == [
        ["method", "recall", "note"],
        ["no-bc", "0.3026", "–"],
        ["fix-m0", "12,345.68", "–"],
    ]


def test_long_lines_in_a_pipe_are_not_cut():
    path = "x" * 500
    assert path in invoke(lambda: {"path": path}).stdout


def test_the_log_is_left_as_it_was():
    logger = logging.getLogger("backstay")
    before = logger.handlers[:], logger.propagate, logger.level
    invoke(lambda: None)
    assert (logger.handlers, logger.propagate, logger.level) == before


def _raise(error: BaseException) -> Callable[..., None]:
    def act(*_: object, **__: object) -> None:
        raise error

    return act


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (errors.InputError("a.csv, line 3:\n  no rating."), 1, "a.csv, line 3: no rating."),
        (errors.TrainingError("loss is nan"), 1, "loss is nan"),
        (OSError(28, "No space left on device", "/data/x"), 1, "on device: /data/x. Make room"),
        (PermissionError(13, "Permission denied", "/root"), 1, "denied: /root. Name a place"),
        (OSError(30, "Read-only file system", "/ro"), 1, "system: /ro. Name a place on a disk"),
        (OSError(28, "No space left on device"), 1, "left on device. Make room"),
        (MemoryError(), 1, "out of memory"),
        (ValueError("first\nsecond"), 1, "ValueError: first (--debug shows where)"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_a_failure_is_one_line(error, code, words):
    result = invoke(_raise(error), "--json")
    assert result.exit_code == code
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: ")
    assert words in line


def test_a_usage_error_of_the_package_exits_2():
    result = invoke(_raise(errors.UsageError("unknown method 'x'.")))
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1] == "Error: unknown method 'x'."
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("error", [errors.InputError("bad"), errors.UsageError("bad"), KeyError(1)])
def test_debug_adds_the_traceback_and_keeps_the_exit_code(error):
    quiet, loud = invoke(_raise(error)), invoke(_raise(error), "--debug")
    assert loud.exit_code == quiet.exit_code
    assert "Traceback" not in quiet.stderr
    assert "Traceback" in loud.stderr
    assert "in act" in loud.stderr


class _RemoteError(Exception):
    """Ray's wrapper of a task's exception: its text is the whole remote traceback."""

    def __init__(self, cause: Exception) -> None:
        super().__init__("ray::task()\n  File …\n")
        self.cause = cause


class _WorkersError(Exception):
    """Ray Train's wrapper of its workers' exceptions."""

    def __init__(self, failures: dict[int, Exception]) -> None:
        super().__init__("Training failed due to worker errors:\n[Rank 0 Error Snippet]: …")
        self.worker_failures = failures


@pytest.mark.parametrize("wrap", [_RemoteError, lambda error: _WorkersError({0: error})])
def test_an_error_of_a_worker_is_shown_without_ray_s_wrapper(wrap):
    failed = invoke(_raise(wrap(_RemoteError(errors.TrainingError("loss is nan")))))
    assert failed.stderr == "Error: loss is nan\n"
    misused = invoke(_raise(wrap(errors.UsageError("no such method"))))
    assert misused.exit_code == 2


def test_the_outermost_of_our_own_errors_is_shown():
    error = errors.RegistryError("can't retire version 0")
    error.__cause__ = errors.NotFoundError("no map")
    assert invoke(_raise(error)).stderr == "Error: can't retire version 0\n"


def test_ctrl_c_exits_130_with_one_line():
    code = (
        "import click, signal, time\n"
        # A shell that runs the tests in the background makes them ignore SIGINT.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from backstay.terminal import Command\n"
        "@click.command(cls=Command, example='wait')\n"
        "def wait():\n"
        "    print('ready', flush=True)\n"
        "    time.sleep(60)\n"
        "wait()"
    )
    with start_python(
        "-c", code, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        assert child.stderr.readline() == "ready\n"
        child.send_signal(signal.SIGINT)
        stdout, stderr = child.communicate(timeout=30)
    assert (child.returncode, stdout, stderr) == (130, "", "Error: interrupted\n")


def test_plain_converts_arrays_and_scalars():
    value = {1: np.float32(0.5), "a": np.arange(3), "b": (np.inf, np.int64(2), None), "c": {True}}
    assert plain(value) == {"1": 0.5, "a": [0, 1, 2], "b": [None, 2, None], "c": [True]}


# Options.


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("compare . --out x --dims 128,big", "--dims': expected N,N,…, found '128,big'"),
        ("update --registry r --space s --dataset . --until 1.5", "--until"),
        *(
            (f"update --registry r --space s --dataset . --until 1 --workers {w}", f"found '{w}'")
            for w in ("x", "-1", "3:1", "0:2", "1:", ":2", "1:2:3")
        ),
        ("ingest . --format table --out x --attribute genre", "KIND=COLUMN"),
        ("ingest nowhere --format table --out x", "nowhere"),
        ("ingest . --format netflix --out x", "netflix"),
        ("versions --space s", "--registry"),
    ],
)
def test_wrong_usage_exits_2_and_names_the_option(arguments, words):
    result = run(*arguments.split())
    assert result.exit_code == 2
    assert words in result.stderr


@pytest.mark.parametrize(
    ("word", "workers"), [("0", 0), ("2", 2), ("1:4", (1, 4)), ("2:2", (2, 2))]
)
def test_workers_are_a_number_or_the_least_and_the_most(monkeypatch, word, workers):
    taken = []
    monkeypatch.setattr("backstay.engines.update.update", taken.append)
    required = "update --registry r --space s --dataset . --until 1 --workers"
    assert run(*required.split(), word).exit_code == 0
    assert [config.workers for config in taken] == [workers]


def test_zero_counts_as_given_and_other_options_keep_their_default(monkeypatch):
    taken = {}
    monkeypatch.setattr("backstay.serving.server.run", lambda *_, **options: taken.update(options))
    assert run("serve", "--registry", "r", "--port", "0").exit_code == 0
    taken.pop("on_ready")
    assert taken["port"] == 0
    assert "cache" not in taken


def test_the_service_announces_itself_while_it_runs(monkeypatch):
    monkeypatch.setattr(
        "backstay.serving.server.run",
        lambda *_, on_ready, **__: on_ready("http://127.0.0.1:1"),
    )
    result = run("serve", "--registry", "r", "--json")
    assert json.loads(result.stdout) == {"url": "http://127.0.0.1:1"}


def test_a_table_with_columns_of_its_own_is_ingested(tmp_path):
    source = tmp_path / "ratings.csv"
    rows = [f"u{n % 3},{n % 4},{n % 5 + 1},{1000 + n},red|blue" for n in range(12)]
    source.write_text("\n".join(["who,what,stars,at,colour", *rows]) + "\n", encoding="utf-8")
    out = tmp_path / "dataset"
    columns = {"--user": "who", "--item": "what", "--rating": "stars", "--time": "at"}
    arguments = ["ingest", source, "--format", "table", "--out", out, "--json"]
    arguments += [
        "--attribute",
        "tint=colour",
        *(word for pair in columns.items() for word in pair),
    ]
    result = run(*arguments)
    assert result.exit_code == 0, result.stderr
    info = json.loads(result.stdout)
    assert info["counts"]["interactions"] == 12
    assert info["attribute_kinds"] == ["tint"]
    again = run(*arguments)
    assert again.exit_code == 2
    assert "nothing is ever overwritten" in again.stderr


# Comparing datasets, or outside tables.


@pytest.fixture
def tables(tmp_path):
    """Two embedding tables, the newer one rotated."""
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((300, 6))
    turn = np.linalg.qr(rng.standard_normal((6, 6)))[0]
    paths = []
    for version, values in enumerate((vectors, vectors @ turn)):
        paths.append(tmp_path / f"v{version}.parquet")
        columns = {"id": [f"word {n}" for n in range(300)], "embedding": values.tolist()}
        pq.write_table(pa.table(columns), paths[-1])
    return paths


def test_tables_of_one_s_own_are_compared(tables, tmp_path):
    out = tmp_path / "run"
    options = ("--methods", "no-map,procrustes", "--sample", "100", "--seed", "3")
    result = run("compare-tables", *tables, "--out", out, *options, "--json")
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    assert document == json.loads((out / "tables.json").read_text(encoding="utf-8"))
    assert [part["method"] for part in document["maps"]] == ["no-map", "procrustes"]
    assert document["advice"][0]["method"] == "procrustes"
    assert (document["settings"]["sample"], document["settings"]["seed"]) == (100, 3)
    assert document["pairs"][0]["fitted"] == 100
    people = run("compare-tables", "--out", out, *tables)  # in any order
    assert people.exit_code == 0
    assert people.stdout.startswith("Table 1 can replace table 0")
    assert "ridge-intercept" in people.stdout
    assert "is now" not in people.stderr


def test_the_old_spelling_works_and_names_the_new_one(tables, tmp_path):
    words = (*tables, "--methods", "no-map,procrustes", "--sample", "100", "--seed", "3", "--json")
    new = run("compare-tables", *words, "--out", tmp_path / "new")
    old = run("compare", "--out", tmp_path / "old", *words, "--tables")
    assert old.exit_code == 0, old.stderr
    assert "is now `backstay compare-tables`" in old.stderr
    old_answer, new_answer = (json.loads(result.stdout) for result in (old, new))
    assert old_answer["maps"] == new_answer["maps"]


def test_comparing_tables_loads_neither_ray_nor_torch(tables, tmp_path):
    words = ["compare-tables", *map(str, tables), "--out", str(tmp_path / "run"), "--json"]
    code = (
        "import sys; from backstay.cli import all_commands, main\n"
        f"try: main({words})\n"
        "except SystemExit: pass\n"
        "print([name for name in ('ray', 'torch') if name in sys.modules])"
    )
    result = run_python("-c", code)
    assert result.stdout.splitlines()[-1] == "[]", result.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("compare-tables {0} --out x", "two tables or more, oldest first; found 1"),
        ("compare-tables {0} {1}", "--out"),
        ("compare-tables --out x", "T0 T1"),
        ("compare-tables {0} {1} --out x --epochs 3", "--epochs"),
        ("compare-tables {0} {1} --out x --methods bc-aligner", "found bc-aligner"),
        ("compare --tables {0} --out x", "two tables or more, oldest first; found 1"),
        ("compare --tables {0} {1}", "--out"),
        ("compare --tables --out x", "DATASET"),
        *(
            (f"compare --tables {{0}} {{1}} --out x {flag} {value}", f"{flag} is an option of")
            for flag, value in (
                ("--epochs", 3),
                ("--evaluate-every", 2),
                ("--profile", "fast"),
                ("--workers", 2),
            )
        ),
        ("compare --tables {0} {1} --out x --methods bc-aligner", "found bc-aligner"),
        ("compare {0} {1} --out x", "expected one dataset, found 2 paths. `backstay compare-tab"),
        ("compare . --out x --sample 100", "--sample is an option of `backstay compare-tables`"),
        ("compare nowhere --out x", "'nowhere' does not exist"),
        ("compare {0} --out x", "is a file"),
    ],
)
def test_invalid_arguments_of_a_comparison_exit_2(tables, words, message):
    result = run(*words.format(*tables).split())
    assert result.exit_code == 2
    assert message in result.stderr


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("evaluate_every must be at least 1, found 0.", "--evaluate-every must be at least 1"),
        ("slices must rise, found (1,).", "--slices must rise"),
        ("raise map_epochs or tuning_epochs.", "raise --map-epochs or --tuning-epochs."),
        ("the weight and seeds of tuning_epochs_x", "the weight and seeds of tuning_epochs_x"),
        ("give --tuning-epochs, not x.tuning_epoch", "give --tuning-epochs, not x.tuning_epoch"),
    ],
)
def test_a_usage_error_names_the_flag_as_typed(message, shown, tmp_path, monkeypatch):
    monkeypatch.setattr("backstay.engines.compare.compare", _raise(errors.UsageError(message)))
    result = run("compare", tmp_path, "--out", tmp_path / "run")
    assert result.exit_code == 2
    assert f"Error: {shown}" in result.stderr


def test_a_flag_may_differ_from_the_parameter_s_name(monkeypatch):
    error = errors.UsageError("source must be above target_, and input_ a table.")
    monkeypatch.setattr("backstay.engines.conversion.convert.convert", _raise(error))
    words = "convert --registry r --space s --from 1 --to 0 --input i --output o"
    assert "--from must be above target_, and --input a table" in run(*words.split()).stderr


def test_a_table_that_is_none_fails_in_one_line(tables, tmp_path):
    result = run("compare-tables", tables[0], tmp_path / "gone", "--out", tmp_path / "run")
    assert result.exit_code == 1
    assert "gone is not there" in result.stderr.splitlines()[-1]


def test_a_dataset_goes_to_the_engine_with_its_options(tmp_path, monkeypatch):
    taken = {}

    def engine(dataset: Path, **options: Any) -> SimpleNamespace:
        taken.update(options, dataset=dataset)
        return SimpleNamespace(results={})

    terminal_table = "backstay.evaluation.report.terminal_table.terminal_table"
    monkeypatch.setattr("backstay.engines.compare.compare", engine)
    monkeypatch.setattr(terminal_table, lambda _: "table")
    words = ("--out", tmp_path / "run", "--methods", "no-bc", "--epochs", 3, "--workers", 1)
    assert run("compare", tmp_path, *words).exit_code == 0
    assert taken == {
        "dataset": tmp_path,
        "out": tmp_path / "run",
        "methods": ("no-bc",),
        "profile": "fast",
        "epochs": 3,
        "workers": 1,
    }


# The registry's commands. tests/unit/registry tests the registry.


@pytest.fixture
def registry(tmp_path):
    """A registry whose space `movies` holds versions 0 and 1, of 4 and 6 dimensions."""
    return fill(Registry(tmp_path / "registry").space("movies"), 4, 6).uri


def ask(verb: str, registry: str, *arguments: object) -> Any:
    result = run(verb, "--registry", registry, "--space", "movies", *arguments, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def test_versions_and_show_list_what_is_published(registry):
    first, second = ask("versions", registry)
    assert (first["version"], first["method"], first["dim"]) == (0, "bc-aligner", 4)
    assert (second["version"], second["until"], second["rows"]) == (
        1,
        0.6,
        {"item": 10, "user": 10},
    )
    shown = ask("show", registry, 1)
    assert shown["manifest"]["dims"] == {"0": 4, "1": 6}
    assert shown["metrics"] == {"recall50": 0.25}
    people = run("versions", "--registry", registry, "--space", "movies").stdout
    assert re.search(r"1\s+bc-aligner\s+6\s", people)


def test_the_registry_may_come_from_the_environment(registry, monkeypatch):
    monkeypatch.setenv("BACKSTAY_REGISTRY", registry)
    assert run("versions", "--space", "movies").exit_code == 0


def test_retire_frees_a_version_that_can_be_read_another_way(registry):
    answer = ask("retire", registry, 0, "--reason", "old")
    assert answer["freed"] > 0
    assert ask("show", registry, 0)["retired"]["reason"] == "old"
    latest = run("retire", "--registry", registry, "--space", "movies", 1)
    assert latest.exit_code == 1
    assert "is the latest" in latest.stderr


def test_verify_lists_what_is_wrong_and_exits_1(registry):
    assert ask("verify", registry) == {"space": "movies", "verified": [0, 1], "problems": []}
    (Path(registry) / "movies/versions/1/metrics.json").write_text("{}", encoding="utf-8")
    result = run("verify", "--registry", registry, "--space", "movies", "--json")
    assert result.exit_code == 1
    (problem,) = json.loads(result.stdout)["problems"]
    assert (problem["version"], problem["path"]) == (1, "metrics.json")
    assert result.stderr.startswith("Error: 1 ")
    assert ask("verify", registry, 0)["problems"] == []


@pytest.mark.parametrize("verb", ["show", "verify", "retire"])
def test_an_unknown_version_is_named(registry, verb):
    result = run(verb, "--registry", registry, "--space", "movies", 7)
    assert result.exit_code == 1
    assert "no version 7" in result.stderr


def test_an_unknown_space_lists_the_others(registry):
    result = run("versions", "--registry", registry, "--space", "books")
    assert result.exit_code == 1
    assert "spaces: movies" in result.stderr


def test_a_missing_registry_is_named(tmp_path):
    result = run("versions", "--registry", tmp_path / "nope", "--space", "movies")
    assert result.exit_code == 1
    assert "--registry: expected the folder of a registry" in result.stderr
