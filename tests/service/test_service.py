"""`edge-runtime service` under a real systemd, in a machine of its own (see machine.py)."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from edge_runtime import Subscriber
from edge_runtime.wire import StatusMessage
from tests import tiny
from tests.conftest import jpeg, noise, wait_for
from tests.service.machine import COMMAND, Machine, free_ports, why_not

UNIT_FILE = "/etc/systemd/system/edge-runtime@.service"


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    if reason := why_not():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("machine")
    try:
        booted = Machine(folder / "root", tiny.write_bundle(folder / "bundle"))
    except RuntimeError as error:
        pytest.skip(str(error))
    yield booted
    booted.close()


class Service:
    """`edge-runtime@NAME`, installed by the command."""

    def __init__(self, machine: Machine, name: str, extra: str = "") -> None:
        self.machine, self.name = machine, name
        self.unit = f"edge-runtime@{name}.service"
        decisions, self.inputs = free_ports(2)
        self.endpoint = f"tcp://127.0.0.1:{decisions}"
        self.file = f"/etc/edge-runtime/{name}.toml"
        self.text = (
            f'name = "{name}"\nbundle = "/opt/bundle"\nallow_unsigned = true\n{extra}\n'
            f'[[sink]]\nkind = "zmq"\nbind = "{self.endpoint}"\n'
            f'[[source]]\nkind = "zmq"\nbind = "tcp://127.0.0.1:{self.inputs}"\n'
        )
        machine.write(f"/root/{name}.toml", self.text)
        machine.run(COMMAND, "service", "install", name, "--config", f"/root/{name}.toml", "--start")

    def pid(self) -> int:
        """Its main process, as the machine numbers it; 0 while there is none."""
        return int(self.machine.show(self.unit, "MainPID")["MainPID"])

    def state(self) -> str:
        return self.machine.show(self.unit, "ActiveState")["ActiveState"]

    def restarts(self) -> int:
        return int(self.machine.show(self.unit, "NRestarts")["NRestarts"])

    def journal(self) -> str:
        return self.machine.run("journalctl", "-u", self.unit, "-o", "cat", "--no-pager").stdout

    def remove(self) -> None:
        self.machine.run(COMMAND, "service", "uninstall", self.name, "--purge")


@pytest.fixture(scope="module")
def car(machine: Machine) -> Iterator[Service]:
    service = Service(machine, "car")
    yield service
    service.remove()


def comes_back(service: Service, pid: int, restarts: int) -> None:
    """It is another process now, and decides."""
    wait_for(lambda: service.restarts() == restarts + 1 and service.state() == "active", "its restart")
    assert service.pid() not in {0, pid}
    with Subscriber(service.endpoint, timeout_s=60) as subscriber:
        next(iter(subscriber))


def test_it_is_active_once_it_decides_and_says_so_in_the_journal(car: Service) -> None:
    assert car.state() == "active"  # `--start` came back: the last value is there at once
    with Subscriber(car.endpoint, timeout_s=60) as subscriber:
        assert next(iter(subscriber)).name == "car"
    assert f"decisions at {car.endpoint}" in car.journal()
    assert car.machine.show(car.unit, "UnitFileState")["UnitFileState"] == "enabled"
    shown = car.machine.run(COMMAND, "service", "status", "car")
    assert "active (running)" in shown.stdout
    assert f"decisions at {car.endpoint}" in car.machine.run(COMMAND, "service", "logs", "car").stdout


def test_its_unit_is_clean_and_leaves_little_open(car: Service) -> None:
    checked = car.machine.run("systemd-analyze", "verify", UNIT_FILE)
    assert checked.stdout + checked.stderr == ""
    told = car.machine.run("systemd-analyze", "security", "--no-pager", car.unit).stdout
    exposure = re.search(r"exposure level for .*: ([0-9.]+)", told)
    assert exposure is not None
    assert float(exposure[1]) <= 1.7


def test_a_loop_that_hangs_and_a_process_that_is_killed_are_started_again(car: Service) -> None:
    pid, restarts = car.pid(), car.restarts()
    car.machine.run("kill", "-STOP", str(pid))  # nothing of it runs: no decision feeds the watchdog
    comes_back(car, pid, restarts)
    assert "Watchdog timeout" in car.journal()
    pid, restarts = car.pid(), car.restarts()
    car.machine.run("kill", "-KILL", str(pid))
    comes_back(car, pid, restarts)


def test_a_good_reload_succeeds_and_a_bad_one_fails_with_its_reason_and_changes_nothing(car: Service) -> None:
    pid = car.pid()
    car.machine.write(car.file, car.text + '[stream.text]\nstamp = "required"\n')
    car.machine.run("systemctl", "reload", car.unit)
    assert "reloaded: bundle tiny 1.0.0" in car.journal()
    car.machine.write(car.file, car.text.replace("/opt/bundle", "/opt/nothing"))
    assert car.machine.run("systemctl", "reload", car.unit, check=False).returncode != 0
    assert "/opt/nothing" in car.journal()
    assert (car.pid(), car.state()) == (pid, "active")
    with Subscriber(car.endpoint, timeout_s=60) as subscriber:
        next(iter(subscriber))
    car.machine.write(car.file, car.text)
    car.machine.run("systemctl", "reload", car.unit)


def test_it_writes_nowhere_but_in_its_own_places(car: Service) -> None:
    """Asked as the service is: its user, in its own view of the machine."""
    pid = str(car.pid())
    user = car.machine.shell(f"stat -c %u /proc/{pid}").strip()
    assert user not in {"0", ""}
    within = ["nsenter", "-t", pid, "-m", "-r", "setpriv", f"--reuid={user}", "--clear-groups", "touch"]
    for place in ("/etc/edge-runtime/x", "/opt/bundle/x", "/usr/x", "/var/lib/x", "/root/x", "/home/x", "/boot/x"):
        assert car.machine.run(*within, place, check=False).returncode != 0, place
    for place in ("/run/edge-runtime/car/x", "/var/lib/edge-runtime/car/x", "/var/cache/edge-runtime/car/x", "/tmp/x"):
        car.machine.run(*within, place)
    assert car.machine.run("test", "-e", "/tmp/x", check=False).returncode != 0, "its /tmp is its own"
    status = car.machine.shell(f"grep -E '^(NoNewPrivs|Seccomp|CapEff|CapBnd):' /proc/{pid}/status")
    told = dict(re.findall(r"(\w+):\s+(\w+)", status))
    assert told == {"NoNewPrivs": "1", "Seccomp": "2", "CapEff": "0" * 16, "CapBnd": "0" * 16}


def test_beyond_its_memory_limit_it_is_ended_and_tries_again_with_the_limit_it_needs(machine: Machine) -> None:
    service = Service(machine, "small")
    machine.write(f"/etc/systemd/system/{service.unit}.d/memory.conf", "[Service]\nMemoryMax=30M\n")
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "restart", "--no-block", service.unit)
    wait_for(lambda: service.restarts() >= 2, "its end, twice")
    assert machine.show(service.unit, "MemoryMax")["MemoryMax"] == str(30 << 20)
    assert re.search("status=9/KILL|oom-kill", service.journal())
    machine.shell(f"rm -r /etc/systemd/system/{service.unit}.d && systemctl daemon-reload")
    wait_for(lambda: service.state() == "active", "its decisions")
    service.remove()


def test_two_services_run_beside_each_other_and_the_unit_goes_with_the_last(machine: Machine, car: Service) -> None:
    hub = Service(machine, "hub")
    for service in (car, hub):
        with Subscriber(service.endpoint, timeout_s=60) as subscriber:
            assert next(iter(subscriber)).name == service.name
    hub.remove()
    assert car.state() == "active"
    assert machine.run("test", "-e", hub.file, check=False).returncode != 0
    machine.run("test", "-e", UNIT_FILE)


def test_where_its_endpoint_is_held_it_decides_all_the_same_and_takes_it_when_it_is_free(machine: Machine) -> None:
    early, late = Service(machine, "early"), Service(machine, "late")
    machine.write(late.file, late.text.replace(late.endpoint, early.endpoint))
    machine.run("systemctl", "restart", late.unit)
    assert "somebody listens there" in late.journal()
    early.remove()
    with Subscriber(early.endpoint, timeout_s=60) as subscriber:
        assert next(iter(subscriber)).name == "late"
    late.remove()


def test_one_that_always_crashes_is_started_again_for_ever(machine: Machine) -> None:
    service = Service(machine, "crash")
    for crash in range(6):  # systemd gives up after 5 within 10 s where nothing else is said
        wait_for(lambda: service.pid() != 0, "its next process")
        machine.run("kill", "-KILL", str(service.pid()))
        wait_for(lambda crash=crash: service.restarts() > crash, "its restart")  # type: ignore[misc]
        assert service.state() != "failed"
    wait_for(lambda: service.state() == "active", "its decisions")
    service.remove()


def test_a_mistake_in_its_configuration_is_final_and_told(machine: Machine) -> None:
    service = Service(machine, "wrong")
    machine.write(service.file, service.text + "unknown = 1\n")
    assert machine.run("systemctl", "restart", service.unit, check=False).returncode != 0
    assert service.state() == "failed"
    assert "unknown key 'unknown'" in service.journal()
    machine.write("/root/wrong.toml", service.text + "unknown = 1\n")
    again = machine.run(COMMAND, "service", "install", "wrong", "--config", "/root/wrong.toml", check=False)
    assert (again.returncode, len(again.stderr.splitlines())) == (2, 1)
    assert "unknown key 'unknown'" in again.stderr
    service.remove()


def test_keys_of_root_s_that_only_the_services_may_read_are_taken_and_rotated(machine: Machine) -> None:
    folder = "/etc/edge-runtime/keys"
    machine.run(COMMAND, "keys", "generate", folder)
    machine.run(COMMAND, "keys", "generate", folder, "--client", "one", "--receive", "--out", "/root/one.key.toml")
    machine.shell("echo 'u edge-runtime -' | systemd-sysusers -")
    machine.shell(f"chgrp -R edge-runtime {folder} && chmod -R g+rX {folder}")
    service = Service(machine, "keyed")
    row = f'bind = "{service.endpoint}"'
    machine.write(service.file, service.text.replace(row, f'{row}\nkeys = "keys"'))
    machine.run("systemctl", "restart", service.unit)
    heard = machine.run(
        COMMAND, "listen", "--connect", service.endpoint, "--keys", "/root/one.key.toml", "--seconds", "2"
    )
    assert "#" in heard.stdout
    assert machine.run(COMMAND, "listen", "--connect", service.endpoint, "--seconds", "1").stdout == ""
    machine.run(COMMAND, "keys", "rotate", folder)
    machine.run(COMMAND, "keys", "rotate", folder, "--client", "one", "--out", "/root/new.key.toml")
    machine.run(COMMAND, "keys", "rotate", folder, "--client", "one", "--finish")
    machine.run(COMMAND, "keys", "rotate", folder, "--finish")
    keyed = ("--keys", "/root/new.key.toml", "--seconds", "4")  # the folder is looked at once a second
    assert "#" in machine.run(COMMAND, "listen", "--connect", service.endpoint, *keyed).stdout, "new keys, read at once"
    assert "cannot be used" not in service.journal() and "Permission denied" not in service.journal()
    service.remove()


def test_it_stops_in_time_and_installing_again_keeps_what_was_written(machine: Machine) -> None:
    service = Service(machine, "short")
    with Subscriber(service.endpoint, timeout_s=60) as subscriber:
        next(iter(subscriber))
        start = time.monotonic()
        machine.run("systemctl", "stop", service.unit)
        took_s = time.monotonic() - start
        heard = list(iter(lambda: subscriber.receive(0.5), None))
    states = {message.state for message in heard if isinstance(message, StatusMessage)}
    assert "stopped" in states
    shown = machine.show(service.unit, "Result", "ExecMainStatus", "ExecMainCode")
    assert (shown["Result"], shown["ExecMainStatus"]) == ("success", "0"), f"{shown} after {took_s:.1f} s"
    machine.run(COMMAND, "service", "install", "short", "--start")
    assert machine.shell(f"cat {service.file}") == service.text
    assert service.state() == "active"
    machine.run(COMMAND, "service", "uninstall", "short")
    machine.run("test", "-e", service.file)
    assert machine.run("systemctl", "is-enabled", service.unit, check=False).returncode != 0


@pytest.mark.parametrize(
    ("prepare", "arguments", "says"),
    [
        ("true", ("install", "../x"), "expected a letter or digit"),
        ("true", ("uninstall", "nobody"), "edge-runtime@nobody.service"),
        ("cp /root/relative.toml /root/r.toml", ("install", "r", "--config", "/root/r.toml"), "write them in full"),
        ("true", ("install", "none", "--config", "/root/none.toml"), "cannot be read"),
    ],
)
def test_mistakes_are_told_in_one_line_and_change_nothing(
    machine: Machine, prepare: str, arguments: tuple[str, ...], says: str
) -> None:
    machine.write("/root/relative.toml", 'name = "r"\nbundle = "bundle"\n[[source]]\nkind = "zmq"\n')
    machine.shell(prepare)
    before = machine.shell("find /etc/systemd /etc/edge-runtime /etc/sysusers.d -type f -exec sha256sum {} + | sort")
    done = machine.run(COMMAND, "service", *arguments, check=False)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    assert says in done.stderr
    after = machine.shell("find /etc/systemd /etc/edge-runtime /etc/sysusers.d -type f -exec sha256sum {} + | sort")
    assert after == before


def test_what_services_do_not_see_is_not_installed_from(machine: Machine) -> None:
    machine.shell(
        "cp -r /opt/edge-runtime /root/here && sed -i 1s,/opt/edge-runtime,/root/here, /root/here/bin/edge-runtime"
    )
    done = machine.run("/root/here/bin/edge-runtime", "service", "install", "x", check=False)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    assert "which services do not see; install into /opt/edge-runtime" in done.stderr


def test_without_systemd_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    from edge_runtime.cli import commands, run_command

    if Path("/run/systemd/system").is_dir():
        pytest.skip("systemd runs this machine")
    assert run_command(commands, ["service", "install", "x"]) == 2
    assert "systemd does not run this machine; use `edge-runtime run`" in capsys.readouterr().err


def test_a_service_takes_over_what_is_installed_and_goes_back_from_what_does_not_prove_itself(machine: Machine) -> None:
    """As the owner of a fleet would: all by root's commands, beside a service that is not root."""
    slots = "/var/lib/edge-runtime/fleet/slots"
    for version in ("1.1.0", "1.2.0"):
        machine.shell(f"cp -r /opt/bundle /root/{version} && sed -i s/1.0.0/{version}/ /root/{version}/manifest.json")
    service = Service(machine, "fleet")  # makes its state directory
    install = (COMMAND, "bundle", "install", "--allow-unsigned", "--slots", slots, "--trial", "3")
    machine.run(*install, "/opt/bundle")
    machine.write(service.file, service.text.replace("/opt/bundle", f"slot:{slots}"))
    with _Inputs(service.inputs):
        machine.run("systemctl", "restart", service.unit)
        wait_for(lambda: _slot_state(machine, slots, "1.0.0") == "good", "the first one's proof")
        machine.run(*install, "/root/1.1.0")
        wait_for(lambda: _slot_state(machine, slots, "1.1.0") == "good", "the second one's proof")
        machine.run("kill", "-KILL", str(service.pid()))
        wait_for(lambda: service.restarts() == 1 and service.state() == "active", "its restart")
        assert _version(service) == "1.1.0"
    machine.run(*install, "/root/1.2.0")
    wait_for(lambda: _slot_state(machine, slots, "1.2.0") == "bad", "its failure: there is nothing to decide on")
    wait_for(lambda: _version(service) == "1.1.0", "the one before")
    assert (service.restarts(), service.state()) == (1, "active")
    service.remove()


def _slot_state(machine: Machine, slots: str, version: str) -> str:
    state = json.loads(machine.run("cat", f"{slots}/state.json").stdout)
    return next(
        (slot["state"] for slot in (state["current"], state["other"]) if slot and slot["version"] == version), ""
    )


def _version(service: Service) -> str:
    with Subscriber(service.endpoint, timeout_s=60) as subscriber:
        return next(iter(subscriber)).bundle.version


class _Inputs:
    """Pictures that call for decisions."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._send)

    def __enter__(self) -> _Inputs:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _send(self) -> None:
        with zmq.Context() as context, context.socket(zmq.PUSH) as pushing:
            pushing.setsockopt(zmq.LINGER, 0)
            pushing.setsockopt(zmq.SNDHWM, 10)
            pushing.connect(f"tcp://127.0.0.1:{self._port}")
            for seed in itertools.count():
                with contextlib.suppress(zmq.Again):
                    pushing.send_multipart([b'{"schema":1,"stream":"camera"}', jpeg(noise(128, seed))], zmq.NOBLOCK)
                if self._stop.wait(0.05):
                    return


def test_root_writes_nowhere_else_for_what_a_service_has_put_into_its_folder(machine: Machine) -> None:
    service = Service(machine, "wily")
    slots = "/var/lib/edge-runtime/wily/slots"
    own = ("setpriv", "--reuid=edge-runtime", "--regid=edge-runtime", "--clear-groups")
    machine.run(*own, "mkdir", "-p", slots)
    machine.shell("mkdir -p /root/kept && touch /root/kept/manifest.json")
    before = machine.shell("find /root/kept /etc -type f -newermt 2000-01-01 -exec sha256sum {} + | sort")
    for name, target in ((".staging", "/root/kept"), (".install-lock", "/etc/made"), ("state.json.new", "/etc/passwd")):
        machine.run(*own, "ln", "-s", target, f"{slots}/{name}")
    machine.run(COMMAND, "bundle", "install", "--allow-unsigned", "--slots", slots, "/opt/bundle", check=False)
    after = machine.shell("find /root/kept /etc -type f -newermt 2000-01-01 -exec sha256sum {} + | sort")
    assert after == before
    service.remove()
