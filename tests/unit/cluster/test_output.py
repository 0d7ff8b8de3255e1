"""What Ray prints in the driver is logged instead."""

import logging

from ray._private import worker

from backstay.cluster.output import log_prints, quiet_ray


def test_ray_s_messages_are_logged_for_debugging_only(caplog, capsys):
    caplog.set_level(logging.DEBUG, "backstay.ray")
    serve = logging.getLogger("ray.serve")
    printing = worker.print_to_stdstream
    before = serve.handlers[:], serve.propagate
    with quiet_ray():
        data = {"lines": ["graceful_shutdown failed"], "pid": "raylet", "is_err": False}
        worker.print_to_stdstream(data, ignore_prefix=False)
        serve.warning("an application is %s", "ready")
    logged = [(record.levelno, record.getMessage()) for record in caplog.records]
    assert logged == [
        (logging.DEBUG, "(raylet) graceful_shutdown failed"),
        (logging.DEBUG, "an application is ready"),
    ]
    assert "".join(capsys.readouterr()) == ""
    assert worker.print_to_stdstream is printing
    assert (serve.handlers, serve.propagate) == before


def test_printed_lines_are_logged_for_debugging_only(caplog, capsys):
    caplog.set_level(logging.DEBUG, "backstay.ray")
    with log_prints():
        print("│ Number of trials │\n\nView results")  # noqa: T201
    assert [record.getMessage() for record in caplog.records] == [
        "│ Number of trials │",
        "View results",
    ]
    assert "".join(capsys.readouterr()) == ""
