"""Slots: what may be installed, which one runs, what becomes of a trial, and what cannot be read."""

from __future__ import annotations

import errno
import itertools
import shutil
import tarfile
import threading
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from build_engines.write_bundle import write_bundle
from edge_runtime.bundle import Bundle, Manifest, open_bundle, sign_bundle
from edge_runtime.bundles import bundle_path
from edge_runtime.cli import commands, run_command
from edge_runtime.durable import Disk
from edge_runtime.errors import BundleError, UserError
from edge_runtime.signing_keys import generate_keys
from edge_runtime.slots import (
    MAX_EVENTS,
    MAX_STARTS,
    TRIAL,
    Slot,
    Slots,
    State,
    Trial,
    failed,
    installed,
    passed,
    rolled_back,
    started,
    version_key,
)
from tests import tiny


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Signed bundles by version, and the key."""
    folder = tmp_path_factory.mktemp("made")
    secret, _ = generate_keys(folder / "plant")
    for version in ("1.0.0", "1.1.0", "2.0.0", "one"):
        tiny.write_bundle(folder / version, version=version)
        sign_bundle(folder / version, secret)
    return folder


@pytest.fixture
def slots(tmp_path: Path) -> Slots:
    return Slots(tmp_path / "slots")


def install(slots: Slots, made: Path, version: str, **more: object) -> Slot:
    return slots.install(made / version, [made / "plant.pem"], **more)  # type: ignore[arg-type]


def good(slots: Slots, made: Path, version: str) -> Slot:
    slot = install(slots, made, version)
    slots.passed(slot)
    return slot


def told(slots: Slots) -> list[tuple[str, str]]:
    return [(slot.version, slot.state) for slot in slots.read().slots]


def test_the_first_is_on_trial_and_then_good(slots: Slots, made: Path) -> None:
    slot = install(slots, made, "1.0.0")
    assert told(slots) == [("1.0.0", "pending")]
    assert slots.boot().folder == slot.folder
    slots.passed(slot)
    assert told(slots) == [("1.0.0", "good")]
    assert open_bundle(slots.path(slot), [made / "plant.pem"]).signed_by == "plant"
    assert bundle_path(f"slot:{slots.folder}") == slots.path(slot)
    assert [event.what for event in slots.read().events] == ["installed", "started", "good"]


def test_a_tar_is_installed_as_a_folder_is(slots: Slots, made: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "b.tar", "w") as archive:
        archive.add(made / "1.0.0", arcname="b")
    slot = slots.install(tmp_path / "b.tar", [made / "plant.pem"])
    assert slot.digest == open_bundle(made / "1.0.0", allow_unsigned=True).digest
    assert open_bundle(slots.path(slot), [made / "plant.pem"]).digest == slot.digest


def stating(folder: Path, trial: bytes) -> Path:
    """A bundle whose gate report asks for this trial."""
    return write_bundle(folder, *with_report(folder, trial)).path


def with_report(folder: Path, trial: bytes) -> tuple[Manifest, dict[str, bytes]]:
    plain = open_bundle(
        tiny.write_bundle(folder.with_name(f"{folder.name}-plain"), version="3.0.0"), allow_unsigned=True
    )
    return plain.manifest, {TRIAL: trial, **{name: plain.read(name) for name in plain.manifest.files}}


def test_the_trial_is_as_the_bundle_states_it_unless_told_otherwise(
    slots: Slots, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    install(slots, made, "1.0.0")
    assert slots.read().trial == Trial(), "it states nothing"
    source = stating(tmp_path / "b", b'{"latency_ms": 80, "rate": 0.9, "agreement": 0.97, "seconds": 12}')
    slots.install(source, allow_unsigned=True)
    assert slots.read().trial == Trial(12.0, 80.0, rate=0.9, agreement=0.97)
    again = ("install", source, "--slots", slots.folder, "--allow-unsigned", "--downgrade")
    code, said, wrong = call(capsys, *again, "--trial", "5", "--rate", "0")
    assert (code, "on trial for 5 s" in said) == (0, True), wrong
    assert slots.read().trial == Trial(5.0, 80.0, rate=0.0, agreement=0.97)


@pytest.mark.parametrize("trial", [b"", b"[]", b'{"seconds": 0}', b'{"rate": 2}', b'{"colour": 1}', b"\xff"])
def test_a_trial_that_is_none_is_refused(slots: Slots, made: Path, tmp_path: Path, trial: bytes) -> None:
    """Limits that are not understood must not stand for none."""
    good(slots, made, "1.0.0")
    with pytest.raises(BundleError, match=r"report/trial.json is no trial that this runtime knows"):
        slots.install(stating(tmp_path / "b", trial), allow_unsigned=True)
    assert told(slots) == [("1.0.0", "good")]


def test_one_that_was_bad_is_not_taken_again_though_others_came_between(slots: Slots, made: Path) -> None:
    slots.failed(install(slots, made, "2.0.0"), "slow")
    good(slots, made, "1.0.0")
    good(slots, made, "1.1.0")
    assert told(slots) == [("1.1.0", "good"), ("1.0.0", "good")]
    with pytest.raises(UserError, match=r"2.0.0 was bad here: slow"):
        install(slots, made, "2.0.0")
    slots.passed(install(slots, made, "2.0.0", downgrade=True))
    assert slots.read().why_bad(slots.read().slots[0].digest) is None


def test_one_that_fails_its_trial_gives_way_and_the_reason_is_kept(slots: Slots, made: Path) -> None:
    good(slots, made, "1.0.0")
    slot = install(slots, made, "2.0.0")
    assert told(slots) == [("2.0.0", "pending"), ("1.0.0", "good")]
    state = slots.failed(slot, "engine: out of memory")
    assert told(slots) == [("1.0.0", "good"), ("2.0.0", "bad")]
    assert state.other is not None and state.other.reason == "engine: out of memory"
    assert slots.boot().version == "1.0.0"
    with pytest.raises(UserError, match=r"2.0.0 was bad here: engine: out of memory; --downgrade"):
        install(slots, made, "2.0.0")
    again = install(slots, made, "2.0.0", downgrade=True)
    assert (again.folder != slot.folder, told(slots)) == (True, [("2.0.0", "pending"), ("1.0.0", "good")])


def test_one_that_is_started_again_and_again_has_failed(slots: Slots, made: Path) -> None:
    good(slots, made, "1.0.0")
    install(slots, made, "2.0.0")
    assert [slots.boot().version for _ in range(MAX_STARTS + 2)] == ["2.0.0"] * MAX_STARTS + ["1.0.0"] * 2
    other = slots.read().other
    assert other is not None and "started 3 times and has not proven itself" in other.reason


def test_versions_only_go_up_unless_told(slots: Slots, made: Path) -> None:
    good(slots, made, "1.1.0")
    before = slots.read()
    with pytest.raises(UserError, match=r"downgrade from 1.1.0 to 1.0.0 refused; versions only go up, --downgrade"):
        install(slots, made, "1.0.0")
    with pytest.raises(UserError, match=r"1.1.0 is installed already"):
        install(slots, made, "1.1.0")
    with pytest.raises(UserError, match=r"'one' and the current '1.1.0' cannot be told to be the newer"):
        install(slots, made, "one")
    assert slots.read() == before
    install(slots, made, "1.0.0", downgrade=True)
    assert told(slots) == [("1.0.0", "pending"), ("1.1.0", "good")]


def test_by_hand_back_to_the_one_before_but_no_further(slots: Slots, made: Path) -> None:
    with pytest.raises(UserError, match="nothing good to go back to"):
        slots.roll_back()
    good(slots, made, "1.0.0")
    good(slots, made, "2.0.0")
    slots.roll_back()
    assert told(slots) == [("1.0.0", "good"), ("2.0.0", "bad")]
    with pytest.raises(UserError, match="2.0.0 is bad: rolled back by hand"):
        slots.roll_back()


@pytest.mark.parametrize("spoil", ["unsigned", "other key", "changed", "missing", "refused"])
def test_what_is_refused_changes_nothing(slots: Slots, made: Path, tmp_path: Path, spoil: str) -> None:
    good(slots, made, "1.0.0")
    before = slots.read(), sorted(slots.folder.rglob("*"))
    source = Path(shutil.copytree(made / "2.0.0", tmp_path / "b"))
    key = made / "plant.pem"

    def check(bundle: Bundle) -> None:
        if spoil == "refused":
            raise BundleError("it does not decide")

    if spoil == "unsigned":
        (source / "model.sig").unlink()
    elif spoil == "other key":
        key = generate_keys(tmp_path / "other")[1]
    elif spoil == "changed":
        (source / "tokenizer.model").write_bytes(b"x")
    elif spoil == "missing":
        shutil.rmtree(source)
    with pytest.raises(BundleError):
        slots.install(source, [key], check=check)
    assert (slots.read(), sorted(p for p in slots.folder.rglob("*") if p.name != ".install-lock")) == (
        before[0], [p for p in before[1] if p.name != ".install-lock"],
    )  # fmt: skip


def test_what_is_changed_while_it_is_copied_is_refused(slots: Slots, made: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(made / "1.0.0", tmp_path / "b"))
    good(slots, made, "1.0.0")
    shutil.copytree(made / "2.0.0", source, dirs_exist_ok=True)

    def change(bundle: Bundle) -> None:
        (source / "model.sig").write_bytes((made / "1.1.0" / "model.sig").read_bytes())

    with pytest.raises(BundleError):
        slots.install(source, [made / "plant.pem"], check=change)
    assert told(slots) == [("1.0.0", "good")]
    assert not (slots.folder / ".staging").exists()


class FullDisk(Disk):
    def __init__(self, after: int) -> None:
        self.left = after

    def write(self, path: Path, data: bytes) -> None:
        self.left -= 1
        if self.left < 0:
            super().write(path, data[:10])
            raise OSError(errno.ENOSPC, "No space left on device")
        super().write(path, data)


def test_a_full_disk_is_told_and_leaves_the_old_one(slots: Slots, made: Path) -> None:
    good(slots, made, "1.0.0")
    whole = len(list((made / "2.0.0").rglob("*.*"))) + 1
    for after in range(whole):
        full = Slots(slots.folder, FullDisk(after))
        with pytest.raises(UserError, match="No space left on device"):
            install(full, made, "2.0.0")
        assert told(slots) == [("1.0.0", "good")]
        assert not (slots.folder / ".staging").exists()
    install(slots, made, "2.0.0")
    assert told(slots) == [("2.0.0", "pending"), ("1.0.0", "good")]
    assert len([entry for entry in slots.folder.iterdir() if not entry.name.startswith(".")]) == 3


def test_of_two_installations_at_once_one_is_refused(slots: Slots, made: Path) -> None:
    inside, go_on = threading.Event(), threading.Event()

    class SlowDisk(Disk):
        def make_folder(self, path: Path) -> None:
            inside.set()
            assert go_on.wait(20)
            super().make_folder(path)

    thread = threading.Thread(target=install, args=(Slots(slots.folder, SlowDisk()), made, "1.0.0"))
    thread.start()
    assert inside.wait(20)
    with pytest.raises(UserError, match="another installation is under way"):
        install(slots, made, "2.0.0")
    go_on.set()
    thread.join()
    assert told(slots) == [("1.0.0", "pending")]


def test_changes_by_many_at_once_all_count(slots: Slots, made: Path) -> None:
    good(slots, made, "1.0.0")
    install(slots, made, "2.0.0")
    threads = [threading.Thread(target=Slots(slots.folder).boot) for _ in range(MAX_STARTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert slots.read().starts == MAX_STARTS


@given(st.binary(max_size=200))
def test_no_bytes_in_the_state_file_break_it(tmp_path_factory: pytest.TempPathFactory, raw: bytes) -> None:
    slots = Slots(tmp_path_factory.mktemp("s"))
    (slots.folder / "state.json").write_bytes(raw)
    with pytest.raises(BundleError, match=r"state.json is damaged"):
        slots.read()


@given(st.data())
def test_no_change_to_the_state_file_names_what_is_elsewhere(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Whoever may write it decides which slot runs, yet what runs is a verified bundle in this folder."""
    slot = Slot("0-0123456789ab", "tiny", "1", "d", None, "good", "t")
    good = msgspec.json.encode(State(current=slot, other=slot))
    bad = bytearray(good)
    where = data.draw(st.integers(0, len(good) - 1))
    bad[where : where + data.draw(st.integers(0, 30))] = data.draw(st.binary(max_size=30))
    slots = Slots(tmp_path_factory.mktemp("s"))
    (slots.folder / "state.json").write_bytes(bad)
    try:
        state = slots.read()
    except BundleError as error:
        assert "\n" not in str(error)
        return
    for one in state.slots:
        assert slots.path(one).parent == slots.folder and one.folder != ".."


STEPS = st.one_of(
    st.tuples(st.just("install"), st.booleans()),
    st.tuples(st.sampled_from(["start", "roll back"]), st.just(False)),
    st.tuples(st.sampled_from(["pass", "fail"]), st.booleans()),
)


@given(st.lists(STEPS, max_size=30))
def test_whatever_happens_a_good_one_is_not_lost_to_one_that_has_not_proven_itself(
    steps: list[tuple[str, bool]],
) -> None:
    state, numbers = State(), itertools.count()
    for what, flag in steps:
        before = state
        had_good = any(slot.state == "good" for slot in state.slots)
        if what == "install":
            number = next(numbers)
            slot = Slot(f"{number}-0123456789ab", "t", f"{number}.0", str(number), None, "pending", "t")
            state = installed(state, slot, Trial(shadow_s=float(flag)))
            assert slot in state.slots
        elif what == "start":
            state = started(state)
        elif what == "roll back":
            try:
                state = rolled_back(state)
            except UserError:
                continue
        elif state.slots:
            one = state.slots[-1 if flag else 0]
            state = passed(state, one.folder) if what == "pass" else failed(state, one.folder, "slow")
        assert len({slot.folder for slot in state.slots}) == len(state.slots) <= 2
        assert sum(slot.state == "pending" for slot in state.slots) <= 1
        assert (state.current is not None) == (before.current is not None or what == "install")
        assert len(state.events) <= MAX_EVENTS
        if had_good and what in ("install", "start"):
            assert any(slot.state == "good" for slot in state.slots)
        if state.current is not None and state.current.state == "bad":
            assert not any(slot.state == "good" for slot in state.slots), "a good one runs where there is one"


def slot_of(number: int, state: str) -> Slot:
    return Slot(f"{number}-0123456789ab", "t", f"{number}.0", str(number), None, state, "t")  # type: ignore[arg-type]


def test_one_beside_takes_the_place_of_the_current_one_only_by_its_own_proof() -> None:
    old, new = slot_of(1, "good"), slot_of(2, "pending")
    beside = installed(State(current=old), new, Trial(shadow_s=1.0))
    assert (beside.current, beside.other, beside.shadow) == (old, new, new)
    assert passed(beside, old.folder) == passed(beside, "3-0123456789ab") == beside
    assert started(beside) == beside, "a start counts for the one that runs"
    trial = passed(beside, new.folder)
    assert (trial.current, trial.other, trial.shadow) == (new, old, None)
    assert failed(beside, new.folder, "it disagrees").current == old
    by_hand = rolled_back(beside)
    assert (by_hand.current, by_hand.other and by_hand.other.state) == (old, "bad")
    alone = installed(State(), new, Trial(shadow_s=1.0))
    assert (alone.current, alone.shadow) == (new, None), "beside nothing there is nothing to agree with"


def test_a_verdict_on_another_slot_or_a_second_one_changes_nothing() -> None:
    old, new = slot_of(1, "good"), slot_of(2, "pending")
    state = State(current=new, other=old)
    assert passed(state, old.folder) == failed(state, "3-0123456789ab", "slow") == state
    good = passed(state, new.folder)
    assert passed(good, new.folder) == good
    bad = failed(state, new.folder, "slow")
    assert failed(bad, "3-0123456789ab", "again") == bad
    alone = failed(State(current=new), new.folder, "slow")
    assert alone.current is not None and alone.current.state == "bad", "with no other it stays"
    late = passed(alone, new.folder).current
    assert late is not None and (late.state, late.reason) == ("good", ""), "and may make up for it"
    assert failed(alone, new.folder, "again") == alone


def test_versions_are_ordered_as_semantic_versioning_does() -> None:
    ordered = ["0.9", "1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-alpha.beta", "1.0.0-beta.2", "1.0.0-beta.11", "1.0.0-rc.1"]
    ordered += ["1.0.0", "1.0.1", "1.2", "1.10", "2.0.0", "2026.11.27"]
    keys = [version_key(version) for version in ordered]
    assert None not in keys
    assert all(before < after for before, after in itertools.pairwise(keys))  # type: ignore[operator]
    assert version_key("1.0") == version_key("1.0.0") == version_key("1.0.0+build.5")
    assert [version_key(text) for text in ("", "v1", "1.", "1..2", "one", "1.0\n", "1" * 40)] == [None] * 7


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """`edge-runtime bundle ARGUMENTS` in this process."""
    code = run_command(commands, ["bundle", *map(str, arguments)])
    return code, *capsys.readouterr()


def test_by_command(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ("--slots", tmp_path / "slots")
    key = ("--key", made / "plant.pem")
    assert "nothing good to go back to" in call(capsys, "rollback", *where)[2]
    code, said, wrong = call(capsys, "install", made / "1.0.0", *where, *key)
    assert (code, "tiny 1.0.0 is installed" in said) == (0, True), wrong
    slots = Slots(tmp_path / "slots")
    current = slots.read().current
    assert current is not None
    slots.passed(current)
    assert call(capsys, "install", made / "2.0.0", *where, *key, "--trial", "5")[0] == 0
    code, _, wrong = call(capsys, "install", made / "1.1.0", *where, *key)
    assert (code, "downgrade from 2.0.0 to 1.1.0 refused" in wrong) == (2, True)
    listed = call(capsys, "list", *where)[1].splitlines()
    assert [line.split()[:3] for line in listed] == [["pending", "tiny", "2.0.0"], ["good", "tiny", "1.0.0"]]
    assert call(capsys, "rollback", *where)[:2] == (0, "tiny 1.0.0 is current\n")
    status = call(capsys, "status", *where)[1]
    assert "current  good: tiny 1.0.0" in status and "bad (rolled back by hand): tiny 2.0.0" in status
    assert msgspec.json.decode(call(capsys, "status", "--json", *where)[1], type=State) == slots.read()
