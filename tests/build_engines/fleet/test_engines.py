"""Whoever does the work, and whatever befalls them: the same bytes. What is wrong with a recording is told by name."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from rich.console import Console

from build_engines.fleet.executors import Executor, executor_of
from build_engines.fleet.gather import Gathered, Work, gather
from build_engines.fleet.looking import Looking
from build_engines.fleet.on_ray import STARTS, begin
from build_engines.fleet.recordings import Source, find
from build_engines.fleet.report import report_of
from build_engines.fleet.store import Store
from build_engines.fleet.tally import Look
from build_engines.fleet.task import Done, Task, job
from build_engines.recipe import DatasetRecipe
from edge_runtime.bundle import Bundle
from edge_runtime.errors import ConfigError, UserError
from tests.build_engines.fleet.drives import CUT, GOOD, POISONED
from tests.build_engines.fleet.tasks import Dying, Unopened

BY_WEATHER = DatasetRecipe(condition="weather")


@pytest.fixture(scope="module")
def task(bundle: Bundle) -> Looking:
    return Looking.of((bundle,), BY_WEATHER)


@pytest.fixture(scope="module")
def sources(fleet: Path) -> list[Source]:
    return find([fleet])


def gathered(task: Task, sources: Sequence[Source], executor: Executor, store: Store | None = None) -> Gathered[Look]:
    return gather(task, Look, sources, Work(executor, store, Console(quiet=True)))


@pytest.fixture(scope="module")
def alone(task: Looking, sources: list[Source]) -> bytes:
    """The report of one process."""
    return report(task, sources, executor_of("local", 1, None))


def report(task: Task, sources: Sequence[Source], executor: Executor, store: Store | None = None) -> bytes:
    found = gathered(task, sources, executor, store)
    bundle = (task.task if isinstance(task, Dying) else task).bundles[0]  # type: ignore[attr-defined]
    return report_of((bundle,), sources, found.partials, found.left_out).json()


@pytest.mark.parametrize("engine", ["local", pytest.param("ray", marks=pytest.mark.ray)])
def test_two_workers_a_worker_that_is_killed_and_another_order_give_the_bytes_of_one(
    engine: str, task: Looking, sources: list[Source], alone: bytes, tmp_path: Path
) -> None:
    if engine == "ray":
        pytest.importorskip("ray")
    two = executor_of(engine, 2, None)
    dying = Dying(task, "b", str(tmp_path / "killed"))
    assert report(dying, sources[::-1], two) == alone
    assert (tmp_path / "killed").exists()


def test_what_is_cut_short_and_what_is_poisoned_are_named(task: Looking, sources: list[Source], bundle: Bundle) -> None:
    found = gathered(task, sources, executor_of("local", 1, None))
    assert set(found.partials) == {*GOOD, CUT} and set(found.left_out) == {POISONED}
    told = report_of((bundle,), sources, found.partials, found.left_out)
    assert told.recordings == len(GOOD) + 1 and told.cut == (CUT,)
    assert "damaged or no MCAP file" in told.left_out[POISONED]
    assert any(line.startswith(f"{POISONED}: left out") for line in told.lines())


def test_a_recording_that_ends_every_process_is_left_out_and_the_others_are_not(
    task: Looking, sources: list[Source]
) -> None:
    found = gathered(Dying(task, "b", ""), sources, executor_of("local", 1, None))
    assert "ended 3 times (exit code -9)" in found.left_out["day/b"]
    assert set(found.partials) == {*GOOD, CUT} - {"day/b"}


def test_what_was_broken_off_goes_on_and_comes_to_the_same(
    task: Looking, sources: list[Source], alone: bytes, tmp_path: Path
) -> None:
    store, executor = Store(str(tmp_path / "partials")), executor_of("local", 1, None)
    begun = executor.run(task, store, sources)
    for _ in range(3):
        next(begun)
    begun.close()  # type: ignore[attr-defined]
    kept = [outcome.kept for outcome in job(task, store)(iter(sources)) if isinstance(outcome, Done)]
    assert 1 < sum(kept) < len(GOOD) + 1
    assert report(task, sources, executor, store) == alone
    files = [file for file in (tmp_path / "partials").iterdir() if file.suffix != ".new"]
    whole = {file.name: file.read_bytes() for file in files}
    for file in files:
        file.write_bytes(file.read_bytes()[:-1])  # as after a power cut
    torn = [outcome for outcome in job(task, store)(iter(sources)) if isinstance(outcome, Done)]
    assert len(torn) == len(files) and not any(outcome.kept for outcome in torn)
    assert whole == {file.name: file.read_bytes() for file in files}


def test_partials_stand_for_their_recording_labels_bundle_and_settings(
    task: Looking, sources: list[Source], worse_bundle: Bundle, tmp_path: Path
) -> None:
    store = Store(f"file://{tmp_path}/partials")
    one = [next(source for source in sources if source.id == GOOD[0])]

    def kept(with_task: Task, what: Sequence[Source] = one) -> bool:
        (outcome,) = job(with_task, store)(iter(what))
        assert isinstance(outcome, Done)
        return outcome.kept

    assert not kept(task) and kept(task)
    assert not kept(Looking.of((worse_bundle,), BY_WEATHER))
    assert not kept(Looking.of(task.bundles))
    copy = tmp_path / "copy.mcap"
    copy.write_bytes(Path(one[0].path).read_bytes())
    labels = copy.with_suffix(".csv")
    labels.write_bytes(Path(one[0].path).with_suffix(".csv").read_bytes())
    assert kept(task, [Source("copy", str(copy), "")]), "the same content by another name"
    labels.write_text(labels.read_text().replace("dry", "wet"))
    assert not kept(task, [Source("copy", str(copy), "")])


def test_a_task_that_cannot_be_opened_is_the_user_s_mistake_at_once(sources: list[Source]) -> None:
    with pytest.raises(UserError, match="the bundle is gone"):
        gathered(Unopened(), sources, executor_of("local", 1, None))


@pytest.mark.ray
def test_ray_tells_of_both_too(task: Looking, sources: list[Source]) -> None:
    pytest.importorskip("ray")
    two = executor_of("ray", 2, None)
    with pytest.raises(UserError, match="the bundle is gone"):
        gathered(Unopened(), sources, two)
    found = gathered(Dying(task, "b", ""), sources, two)
    assert "ended 3 times" in found.left_out["day/b"] and POISONED in found.left_out


@contextmanager
def cluster(environment: Mapping[str, str]) -> Iterator[str]:
    """The address of a Ray cluster that somebody else has started, on this machine."""
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # the paths of its sockets must be short
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--port", "0"]
    command += ["--num-cpus", "2", "--include-dashboard", "false", "--disable-usage-stats", "--temp-dir", str(folder)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)
    try:
        while not (told := folder / "ray_current_cluster").is_file():
            assert process.poll() is None, "ray start has ended"
            time.sleep(0.1)
        yield told.read_text().strip()
    finally:
        process.terminate()
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.ray
def test_a_cluster_that_runs_already_is_used_by_its_address_and_goes_on(
    fleet: Path, bundle: Bundle, alone: bytes, tmp_path: Path
) -> None:
    """By processes of their own, with the token that the cluster wants: a process of Ray keeps its first one."""
    pytest.importorskip("ray")
    environment = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    command = [sys.executable, "-m", "build_engines", "fleet", "evaluate", str(fleet), "--bundle", str(bundle.path)]
    command += ["--allow-unsigned", "--condition", "weather", "--engine", "ray"]
    with cluster(environment) as address:
        for number, where in enumerate((address, "auto")):
            asking = [*command, "--address", where, "--report", str(tmp_path / str(number))]
            subprocess.run(asking, env=environment | {"RAY_ADDRESS": address}, check=True)
            assert (tmp_path / str(number) / "evaluation.json").read_bytes() == alone


class BusyRay:
    """Gives up on starting so many times."""

    def __init__(self, failures: int) -> None:
        self.failures, self.begun = failures, 0

    def init(self, address: str, **settings: object) -> None:
        self.begun += 1
        if self.begun <= self.failures:
            raise Exception("The current node timed out during startup.\nMore.")

    def shutdown(self) -> None:
        pass


def test_a_cluster_that_does_not_start_at_once_is_started_again_and_one_that_is_not_there_is_one_line() -> None:
    slow = BusyRay(STARTS - 1)
    begin(slow, None, 2)
    assert slow.begun == STARTS
    with pytest.raises(UserError, match=r"does not start on this machine: The current node timed out during startup.$"):
        begin(BusyRay(STARTS), None, 2)
    away = BusyRay(1)
    with pytest.raises(UserError, match="--address head:6379: there is no Ray cluster"):
        begin(away, "head:6379", None)
    assert away.begun == 1


def test_an_address_goes_with_ray_only_and_where_nothing_can_be_read_that_is_said(
    task: Looking, sources: list[Source]
) -> None:
    with pytest.raises(ConfigError, match="--engine ray"):
        executor_of("local", 1, "auto")
    poisoned = [source for source in sources if source.id == POISONED]
    with pytest.raises(UserError, match="nothing could be made of any of the 1"):
        gathered(task, poisoned, executor_of("local", 1, None))
