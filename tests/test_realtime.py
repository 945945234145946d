"""Settings of the kernel's, read back from the kernel."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import msgspec
import pytest

from edge_runtime import realtime
from edge_runtime.config import Config, RealtimeConfig
from edge_runtime.errors import ConfigError
from edge_runtime.runtime import Runtime
from tests.conftest import running, tiny_config
from tests.test_runtime import Vehicle


def _may_be_realtime() -> bool:
    try:
        with realtime.granted(RealtimeConfig("rr", 1)):
            return True
    except ConfigError:
        return False


allowed = pytest.mark.skipif(not _may_be_realtime(), reason="this process may not have a real-time policy")
CORE = min(os.sched_getaffinity(0))


@allowed
@pytest.mark.parametrize("policy", ["rr", "fifo"])
def test_threads_that_are_started_meanwhile_have_it_and_it_ends_with_the_block(policy: str) -> None:
    before = (os.sched_getscheduler(0), os.sched_getaffinity(0))
    settings = RealtimeConfig(policy, 7, (CORE,))  # type: ignore[arg-type]
    found = []
    with realtime.granted(settings):
        thread = threading.Thread(target=lambda: found.append(realtime.health(settings)))
        thread.start()
        thread.join()
    assert (found[0].policy, found[0].priority, found[0].cores) == (policy, 7, [CORE])
    assert (os.sched_getscheduler(0), os.sched_getaffinity(0)) == before


def test_nothing_asked_nothing_changed() -> None:
    before = realtime.health(RealtimeConfig())
    with realtime.granted(None):
        assert realtime.health(RealtimeConfig()) == before
    with realtime.granted(RealtimeConfig()):
        assert realtime.health(RealtimeConfig()) == before


def test_a_core_that_is_not_there_is_named_with_those_that_are() -> None:
    with (
        pytest.raises(ConfigError, match=f"cores are \\[4000\\]; this process may use .*{CORE}"),
        realtime.granted(RealtimeConfig(cores=(4000,))),
    ):
        raise AssertionError("not refused")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give up what it may")
@pytest.mark.parametrize(
    ("table", "grant"),
    [("RealtimeConfig('rr', 5)", "LimitRTPRIO=5"), ("RealtimeConfig(lock_memory=True)", "LimitMEMLOCK=infinity")],
)
def test_what_the_kernel_refuses_is_one_line_with_what_to_grant(table: str, grant: str) -> None:
    code = (
        "import os, resource\n"
        "from edge_runtime import realtime\nfrom edge_runtime.config import RealtimeConfig\n"
        "resource.setrlimit(resource.RLIMIT_RTPRIO, (0, 0))\n"
        "resource.setrlimit(resource.RLIMIT_MEMLOCK, (4096, 4096))\n"
        "os.setgid(65534); os.setuid(65534)\n"
        f"with realtime.granted({table}): pass\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and grant in done.stderr.splitlines()[-1]


@allowed
def test_a_runtime_says_in_status_what_it_was_given_and_its_children_are_ordinary(tmp_path: Path) -> None:
    from tests import tiny

    bundle = tiny.write_bundle(tmp_path / "b")
    configuration = msgspec.structs.replace(
        tiny_config(bundle), realtime=RealtimeConfig("rr", 3, lock_memory=True, busy_poll_ms=2.0)
    )
    with running(Runtime(configuration)) as runtime:
        vehicle = Vehicle(runtime)
        try:
            for number in range(10):
                assert vehicle.answer(240, f"f{number}").label == "bright"
            while not (vehicle.statuses and vehicle.statuses[-1].timings):
                vehicle.read()
        finally:
            vehicle.close()
    told = vehicle.statuses[-1].realtime
    assert told is not None
    assert (told.policy, told.priority, told.busy_poll_ms) == ("rr", 3, 2.0)
    assert told.locked_mb > 1


@allowed
def test_a_child_goes_back_to_ordinary_scheduling() -> None:
    with realtime.granted(RealtimeConfig("rr", 2)):
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        assert os.sched_getscheduler(child.pid) == os.SCHED_RR
        realtime.leave(child.pid)
        assert os.sched_getscheduler(child.pid) == os.SCHED_OTHER
        child.communicate(b"\n")
    realtime.leave(child.pid)


def test_it_cannot_change_in_a_reload(tiny_bundle_path: Path) -> None:
    from tests.test_reload import reloading

    good = tiny_config(tiny_bundle_path)
    with reloading(good) as (both, _):
        other: Config = msgspec.structs.replace(good, realtime=RealtimeConfig(busy_poll_ms=1.0))
        assert "`[realtime]`" in (both.reload(lambda: other) or "")
