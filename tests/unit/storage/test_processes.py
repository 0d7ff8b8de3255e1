import subprocess
from dataclasses import replace

from backstay.storage.processes import is_running, started, this_process


def test_a_process_runs_until_it_has_ended():
    with subprocess.Popen(["sleep", "60"]) as process:
        owner = replace(this_process(), pid=process.pid, started=started(process.pid))
        assert is_running(owner)
        assert not is_running(replace(owner, started=owner.started - 1))  # the pid came again
        assert not is_running(replace(owner, host="elsewhere"))
        process.kill()
    assert not is_running(owner)
    assert not is_running(this_process())


def test_a_process_that_ended_and_was_not_waited_for_does_not_run():
    with subprocess.Popen(["true"], stdout=subprocess.PIPE) as process:
        process.stdout.read()
        owner = replace(this_process(), pid=process.pid, started=0.0)
        while started(process.pid) is not None:
            pass
        assert not is_running(owner)
