"""Plans: the arithmetic against figures worked out by hand, bounds, and wrong use."""

import json
import re
import shlex
from dataclasses import fields, replace

import pytest
from click.testing import CliRunner

from backstay.cli import main
from backstay.errors import UsageError
from backstay.sizing.demand import Demand
from backstay.sizing.figures import GIB
from backstay.sizing.plan import Plan, make_plan
from backstay.sizing.rates import MEASURED, Rate, Rates, rate_names
from backstay.training.config import FAST
from tests.support.processes import ROOT

ROUND = MEASURED.with_values(
    {
        "convert": 100_000,
        "convert-speedup": 1.6,
        "fit": 4_000,
        "fit-speedup": 1.6,
        "prepare": 500_000,
        "evaluate": 20_000,
        "embed": 50_000,
        "convert-start": 9,
        "fit-memory-base": GIB,
        "fit-memory": 400,
        "requests": 1_000,
        "ids": 100_000,
    }
)
DEMAND = Demand(
    rows=36_000_000, dim=320, qps=11_900, deadline=2, interactions=18_000_000, node_memory=64
)


def found(plan: Plan) -> list[dict[str, float]]:
    return [{f.name: f.value for f in part} for part in (plan.update, plan.service)]


def test_an_update_worked_out_by_hand():
    update, _ = found(make_plan(DEMAND, ROUND))
    edges = 1000 * FAST.groups * FAST.group_size
    fit = edges / 4_000 / 3600
    assert update["edges of the fit"] == edges
    assert update["fit, one core"] == pytest.approx(fit)
    assert update["read and prepare"] == pytest.approx(0.01)
    assert update["evaluate"] == pytest.approx(0.5)  # once: an epoch is longer than the fit
    assert update["embed all rows"] == pytest.approx(2 * 0.2)
    assert update["conversion, one core"] == pytest.approx(36e6 / (80_000 * 0.8) / 3600)
    fixed = 0.01 + 0.5 + 0.4 + 0.25 * fit  # 2 / 1.6 - 1
    assert update["not shortened by workers"] == pytest.approx(fixed)
    assert update["workers"] == 1
    conversion = update["conversion, one core"] + 9 / 3600
    assert update["duration"] == pytest.approx(fixed + 0.75 * fit + conversion)
    assert update["memory of a worker"] == pytest.approx(1 + 18e6 * 400 / GIB)
    assert update["nodes"] == 1


def test_the_least_workers_that_meet_the_deadline():
    for deadline in (1.1, 1.2, 1.3, 1.6, 5):
        demand = replace(DEMAND, deadline=deadline)
        update, _ = found(make_plan(demand, ROUND))
        workers, fixed = update["workers"], update["not shortened by workers"] + 9 / 3600
        assert update["duration"] <= deadline
        one_less = fixed + (update["duration"] - fixed) * workers / max(1, workers - 1)
        assert workers == 1 or one_less > deadline


def test_a_service_worked_out_by_hand():
    _, service = found(make_plan(replace(DEMAND, ids_per_request=11), ROUND))
    assert service["tables in memory"] == pytest.approx(36e6 * 1296 / GIB)
    assert service["shards"] == 1
    assert service["core time of a request"] == pytest.approx(1.1)
    assert service["cores"] == 22
    assert service["nodes"] == 2
    assert service["disk of a node"] == pytest.approx(3 * service["tables in memory"])


def test_a_table_larger_than_a_node_is_split():
    demand = replace(DEMAND, rows=10**9, interactions=0, ids_per_request=50)
    _, service = found(make_plan(demand, ROUND))
    assert service["shards"] == 24  # 1206.99 GiB / 51.2 GiB
    assert service["memory for tables on a node"] <= 0.8 * 64
    assert service["nodes"] >= 2 * 24
    assert service["core time of a request"] == pytest.approx(24 + 26 / 100)


def test_money_only_with_a_price():
    assert not any("money" in name for part in found(make_plan(DEMAND, ROUND)) for name in part)
    update, service = found(make_plan(replace(DEMAND, price_per_core_hour=0.05), ROUND))
    assert update["money for an update"] == pytest.approx(16 * 0.05 * update["duration"])
    assert service["money for a month of 730 h"] == pytest.approx(32 * 0.05 * 730)


def test_without_a_fit_only_the_conversion_is_planned():
    plan = make_plan(replace(DEMAND, interactions=0), ROUND)
    names = {figure.name for figure in plan.update}
    assert names == {
        *("conversion, one core", "start of the conversion", "workers", "duration", "nodes"),
    }


def test_two_workers_are_as_fast_as_measured_and_more_are_simulated():
    scaling = make_plan(replace(DEMAND, dim=320), ROUND).scaling
    one, two, four, *_, last = scaling
    assert (one.fit, two.fit) == pytest.approx((4_000, 6_400))
    assert (one.convert, two.convert) == pytest.approx((80_000, 128_000))
    assert four.convert == pytest.approx(2 * two.convert)
    assert four.fit == pytest.approx(4_000 / (0.25 + 0.75 / 4))
    assert last.fit < 4_000 / 0.25  # workers wait for each other in every step
    assert {row.known for row in scaling if row.workers <= 2} == {"given"}
    alike = make_plan(DEMAND, MEASURED).scaling[:2]
    assert {row.known for row in alike} == {"measured"}
    assert {row.known for row in scaling if row.workers > 2} == {"simulated"}


def test_every_rate_has_a_source():
    for field in fields(Rates):
        rate: Rate = getattr(MEASURED, field.name)
        assert rate.value > 0
        assert rate.unit
        assert re.search(r"benchmarks/\w+\.py", rate.source), field.name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": 0}, "rows must be at least 1, found 0"),
        ({"qps": 0.0}, "qps must be more than 0"),
        ({"qps": float("nan")}, "qps must be"),
        ({"deadline": 0.5}, r"--deadline: expected more than 1\.06 hours, found 0\.5"),
        ({"node_memory": 4.0}, "--node-memory: expected at least 10 GiB, found 4"),
    ],
)
def test_demands_that_cannot_be_met(change, message):
    with pytest.raises(UsageError, match=message):
        make_plan(replace(DEMAND, **change), ROUND)


ASKED = "plan --rows 1e6 --dim 256 --qps 100 --deadline 6"


def run(line: str):
    return CliRunner().invoke(main, shlex.split(line))


def test_the_command_prints_tables_or_json():
    shown = run(f"{ASKED} --price-per-core-hour 0.05")
    assert shown.exit_code == 0, shown.stderr
    for title in ("One update", "The look-up service", "Workers", "Rates", "money"):
        assert title in shown.stdout
    document = json.loads(run(f"{ASKED} --json").stdout)
    assert {part["name"] for part in document["service"]} >= {"shards", "nodes", "cores"}
    assert document["demand"]["rows"] == 1_000_000
    assert set(document["rates"]) == {field.name for field in fields(Rates)}


def test_own_rates_replace_measured_ones():
    line = f"{ASKED} --json --rate requests=50 --rate fit-speedup=2"
    document = json.loads(run(line).stdout)
    assert document["rates"]["requests"]["value"] == 50
    assert document["rates"]["requests"]["source"] == "given by --rate"
    assert {row["known"] for row in document["scaling"]} == {"simulated", "given"}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("--rate speed=3", "--rate: expected one of convert,"),
        ("--rate requests=-1", "--rate requests: expected a number from 1e-12 to 1e+12, found -1"),
        ("--rate requests=nan", "found nan"),
        ("--qps 1e300", "--qps must be at most"),
        ("--rate requests=1e-300", "found 1e-300"),
        ("--rate requests", "expected NAME=VALUE with a number"),
        ("--rows 1.5", "expected a whole number, such as 1000000 or 1e6"),
        ("--rows 1e400", "expected a whole number"),
        ("--rows 0", "--rows must be at least 1"),
        ("--deadline nan", "--deadline must be"),
        ("--price-per-core-hour -1", "--price-per-core-hour must be at least 0"),
        ("--interactions -5", "--interactions must be at least 0"),
    ],
)
def test_wrong_use_is_explained(more, message):
    done = run(f"{ASKED} {more}")
    assert done.exit_code == 2
    assert message in " ".join(done.stderr.split())
    assert set(rate_names()) == {field.name.replace("_", "-") for field in fields(Rates)}


def test_the_page_on_sizes_shows_what_the_command_prints():
    page = (ROOT / "docs" / "how-to" / "size.md").read_text("utf-8")
    commands = re.findall(r"```sh\n(backstay plan .*?)```\n\n```text\n(.*?)```", page, re.DOTALL)
    assert len(commands) >= 1
    for command, output in commands:
        done = run(command.replace("\\\n", " ").removeprefix("backstay "))
        assert done.exit_code == 0, done.stderr
        assert [line.rstrip() for line in done.stdout.rstrip().splitlines()] == [
            line.rstrip() for line in output.rstrip().splitlines()
        ]
