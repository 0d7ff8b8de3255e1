import pytest

from backstay.serving.client import attempts
from tests.support.clients import KINDS


@pytest.fixture(params=KINDS)
def kind(request):
    """Every test of this folder that takes it runs with both clients."""
    return request.param


@pytest.fixture
def impatient(monkeypatch):
    """Retries follow at once."""
    monkeypatch.setattr(attempts, "FIRST_WAIT", 0.0)
