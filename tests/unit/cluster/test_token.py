"""The token file of a cluster."""

import json
import stat
from concurrent.futures import ThreadPoolExecutor

import pytest

from backstay.cluster.token import make_token
from backstay.errors import UsageError
from tests.support.processes import environment, run_python


@pytest.fixture
def path(tmp_path, monkeypatch):
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    path = tmp_path / "secrets" / "auth_token"
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(path))
    return path


def test_a_token_is_made_once_for_its_owner_only(path):
    assert make_token().made
    first = path.read_text()
    assert len(first) == 64
    assert int(first, 16)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not make_token().made
    assert path.read_text() == first
    assert [entry.name for entry in path.parent.iterdir()] == ["auth_token"]


def test_a_token_can_be_renewed(path):
    make_token()
    first = path.read_text()
    assert make_token(renew=True).made
    assert path.read_text() != first
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_default_is_where_ray_looks(path, tmp_path):
    del path
    given = {name: value for name, value in environment().items() if "RAY_AUTH" not in name}
    done = run_python(
        *("-m", "backstay", "cluster", "token", "--json"), env={**given, "HOME": str(tmp_path)}
    )
    assert done.returncode == 0, done.stderr
    made = tmp_path / ".ray" / "auth_token"
    assert json.loads(done.stdout) == {"path": str(made), "made": True}
    assert made.read_text() not in done.stdout + done.stderr


def test_only_one_of_many_makes_it(path):
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: make_token().made, range(8)))
    assert sum(made) == 1
    assert len(path.read_text()) == 64


@pytest.mark.parametrize(("content", "mode"), [("", 0o600), ("secret", 0o644)])
def test_a_bad_token_file_is_refused(path, content, mode):
    path.parent.mkdir()
    path.write_text(content)
    path.chmod(mode)
    with pytest.raises(UsageError, match="--renew"):
        make_token()
    assert path.read_text() == content


def test_a_token_in_the_environment_is_refused(path, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0" * 64)
    with pytest.raises(UsageError, match="unset it"):
        make_token()
    assert not path.exists()
