"""Which of a repository's bundles a device takes: kinds of machines, shares of a fleet, versions, names of files."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.errors import UserError
from edge_runtime.fleet.offers import Device, Offer, choose, unsafe_name
from edge_runtime.slots import Event, Slot, State

DEVICE = Device("d", "aarch64", "8.7")


def offer(version: str = "2.0.0", name: str = "car", **more: object) -> Offer:
    return msgspec.convert({"name": name, "version": version, "files": {}, **more}, Offer)


def running(version: str = "1.0.0", state: str = "good", digest: str = "own") -> State:
    return State(current=Slot("0-0123456789ab", "car", version, digest, None, state, "t"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("machines", "compute", "fits"),
    [
        ([], [], True),
        (["aarch64"], [], True),
        (["x86_64", "aarch64"], ["8.7"], True),
        (["x86_64"], [], False),
        ([], ["8.9"], False),
        (["aarch64"], ["8.6", "8.9"], False),
    ],
)
def test_a_bundle_is_for_the_machines_that_it_names(machines: list[str], compute: list[str], fits: bool) -> None:
    one = offer(machines=machines, compute=compute)
    assert DEVICE.fits(one) is fits
    assert choose({"a": one}, DEVICE, None, running()) == ("a" if fits else None)


def test_a_machine_without_a_gpu_gets_nothing_that_needs_one() -> None:
    assert not Device("d", "aarch64").fits(offer(compute=["8.7"]))


def test_of_what_is_newer_the_newest() -> None:
    offers = {version: offer(version) for version in ("0.9", "1.0.0", "1.10.0", "1.9.0", "2.0.0-rc.1", "one")}
    assert choose(offers, DEVICE, None, running()) == "2.0.0-rc.1"
    assert choose(offers, DEVICE, None, running("2.0.0")) is None
    assert choose(offers, DEVICE, None, running("9", state="bad")) == "2.0.0-rc.1", "a bad one is no measure"


def test_what_was_bad_here_is_left_out_and_the_next_is_taken() -> None:
    offers = {"a": offer("2.0.0"), "b": offer("3.0.0")}
    bad = msgspec.structs.replace(running(), events=(Event("t", "bad", "3.0.0", "b", "slow"),))
    assert choose(offers, DEVICE, None, bad) == "a"


def test_which_bundle_it_is_to_be() -> None:
    offers = {"a": offer(), "b": offer(name="home", version="9.0.0")}
    assert choose(offers, DEVICE, None, running()) == "a", "as the one that is installed"
    assert choose(offers, DEVICE, "home", running()) == "b"
    assert choose({"a": offer()}, DEVICE, None, State()) == "a"
    with pytest.raises(
        UserError, match=r"no --name says which bundle it is to be; for this machine there are car, home"
    ):
        choose(offers, DEVICE, None, State())
    with pytest.raises(UserError, match="for this machine there is none"):
        choose({}, DEVICE, None, State())


@given(st.text(max_size=40), st.integers(0, 100), st.integers(0, 100))
def test_a_share_that_grows_takes_nobody_out(device: str, one: int, other: int) -> None:
    def takes(rollout: int) -> bool:
        return choose({"a": offer(rollout=rollout)}, Device(device, "m"), None, running()) is not None

    small, large = sorted((one, other))
    assert takes(large) >= takes(small)
    assert takes(100) and not takes(0)


def test_a_share_is_about_that_part_of_the_fleet_and_another_for_each_version() -> None:
    fleet = [Device(f"device {number}", "m") for number in range(2000)]

    def first(version: str) -> set[str]:
        return {one.id for one in fleet if choose({"a": offer(version, rollout=10)}, one, None, running())}

    two, three = first("2.0.0"), first("3.0.0")
    assert 140 < len(two) < 260 and 140 < len(three) < 260
    assert len(two & three) < 60, "not always the same devices go first"
    assert first("2.0.0") == two


@given(st.text(max_size=60))
def test_a_name_that_is_not_refused_stays_in_its_folder(file: str) -> None:
    if unsafe_name(file):
        return
    folder = Path("/tmp/f")
    assert Path(os.path.normpath(folder / file)) == folder / file
    assert (folder / file).is_relative_to(folder) and (folder / file) != folder


@pytest.mark.parametrize("file", ["stages/vision.int8.onnx", "licences/a b.txt", "model.sig", "..x", "ä/ö"])
def test_names_of_files_as_bundles_have_them(file: str) -> None:
    assert not unsafe_name(file)
