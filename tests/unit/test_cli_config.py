"""`--config FILE`: options out of a file, refused where they don't fit."""

from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from backstay.cli import main, options
from backstay.cli.config import config_file
from backstay.terminal import Command


@click.command("update", cls=Command, example="backstay update")
@config_file
@click.option("--method", default="bc-aligner")
@click.option("--weight", type=float)
@click.option("--new-dims", type=int)
@click.option("--dims", type=options.INTEGERS)
def update(**settings: object) -> object:
    """Show the options."""
    return settings


def run(*words: object) -> Result:
    return CliRunner().invoke(update, [*map(str, words), "--json"])


def written(folder: Path, text: str, name: str = "best.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


YAML = "update:\n  method: joint-identity\n  weight: 2.5\n  new-dims: 0\n  dims: [8, 16]\n"
TOML = '[update]\nmethod = "joint-identity"\nweight = 2.5\nnew-dims = 0\ndims = [8, 16]\n'
SHOWN = '{"method": "joint-identity", "weight": 2.5, "new_dims": 0, "dims": [8, 16]}'


@pytest.mark.parametrize(("name", "text"), [("a.yaml", YAML), ("a.yml", YAML), ("a.toml", TOML)])
def test_the_section_of_the_command_sets_its_options(tmp_path, name, text):
    result = run("--config", written(tmp_path, text, name))
    assert " ".join(result.stdout.split()).replace("[ 8, 16 ]", "[8, 16]") == SHOWN.replace(
        "{", "{ "
    ).replace("}", " }")


def test_the_command_line_wins(tmp_path):
    result = run("--weight", 7, "--config", written(tmp_path, YAML))
    assert '"weight": 7.0' in result.stdout
    assert '"method": "joint-identity"' in result.stdout


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("compare: {weight: 1}", "expected a section 'update'"),
        ("", "expected sections by command"),
        ("- 1", "expected sections by command"),
        ("update: {wieght: 1}", "no option --wieght"),
        ("update: {new_dims: 1}", "no option --new_dims"),
        ("update: {config: x.yaml}", "no option --config"),
        ("update: {weight: heavy}", "'heavy' is not a valid float"),
        ("update: [", "can't be read"),
        ("update: {weight: !!python/object:os.system 1}", "can't be read"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(tmp_path, text, message):
    result = run("--config", written(tmp_path, text))
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())


def test_other_formats_and_missing_files_are_refused(tmp_path):
    assert "*.yaml, .yml or .toml" in run("--config", written(tmp_path, YAML, "a.json")).stderr
    assert run("--config", tmp_path / "nope.yaml").exit_code == 2


@pytest.mark.parametrize("command", ["update", "compare", "tune"])
def test_the_commands_that_fit_take_a_file(command, tmp_path):
    path = written(tmp_path, f"{command}: {{wieght: 1}}")
    result = CliRunner().invoke(main, [command, "--config", str(path)])
    assert "no option --wieght" in " ".join(result.stderr.split())
