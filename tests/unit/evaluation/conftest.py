import pytest

from backstay.evaluation.analysis.findings import Analysis
from tests.support.made_up_results import made_up_results


@pytest.fixture(scope="session")
def results():
    return made_up_results()


@pytest.fixture(scope="session")
def analysis(results):
    return Analysis.of(results)
