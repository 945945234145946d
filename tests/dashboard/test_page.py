"""The page in a real browser: what it shows, to whom, and that a day of it costs no more than a minute."""

from __future__ import annotations

import itertools
import logging
import os
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from edge_runtime.dashboard import server
from edge_runtime.dashboard.feed import Feed
from edge_runtime.dashboard.server import PAGE, Dashboard
from edge_runtime.messages import Detection, Frame
from edge_runtime.runtime import Runtime
from edge_runtime.wire import InputState, Latency
from tests import tiny
from tests.chromium import Chromium, Page, needed
from tests.conftest import jpeg, running, tiny_config, wait_for
from tests.publish.test_dashboard_sink import ROW, sink_of
from tests.publish.test_sinks import decision, status
from tests.test_runtime import Vehicle

pytestmark = needed
pytest.importorskip("websockets", reason="websockets is not installed")

DAY_VIEWS = 24 * 3600 * 5
"""As many as the server tells in a day."""
MINUTES_VIEWS = 20_000
"""Enough for everything to be full."""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    chromium = Chromium(tmp_path_factory.mktemp("chromium"))
    yield chromium
    chromium.close()


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The page of a running service whose camera, sensors and sentences go on, whatever else the machine does."""
    streams = {name: msgspec.structs.replace(spec, max_age_ms=9000, rate_hz=1) for name, spec in tiny.STREAMS.items()}
    bundle = tiny.write_bundle(tmp_path_factory.mktemp("bundle") / "tiny", streams=streams)
    configuration = msgspec.structs.replace(tiny_config(bundle, name="car"), dashboard=ROW)
    logger = logging.getLogger("edge_runtime")
    level = logger.level
    logger.setLevel(logging.INFO)
    with running(Runtime(configuration)) as runtime:
        vehicle = Vehicle(runtime)
        stopping = threading.Event()

        def drive() -> None:
            for number in itertools.count():
                vehicle.sample(a=float(number % 5), b=1.0)
                if number % 40 == 20:
                    vehicle.text("please stop now")
                vehicle.frame(60 if number // 50 % 2 else 240)
                if stopping.wait(0.04):
                    return

        driving = threading.Thread(target=drive)
        driving.start()
        yield sink_of(runtime).endpoint
        stopping.set()
        driving.join()
        vehicle.close()
    logger.setLevel(level)


@pytest.fixture
def page(browser: Chromium) -> Iterator[Page]:
    with browser.page() as tab:
        yield tab


@pytest.fixture
def made() -> Iterator[tuple[Feed, Dashboard]]:
    """A page that shows what a test says."""
    feed = Feed(with_pictures=True)
    served = Dashboard(feed, "tcp://127.0.0.1:*", None, None, None)
    yield feed, served
    served.close()


def keep(page: Page, name: str) -> None:
    """A picture of the page for people, where TESTS_PICTURES names a folder."""
    if folder := os.environ.get("TESTS_PICTURES"):
        page.picture(Path(folder) / f"{name}.png")


def opened(page: Page, address: str) -> None:
    """As `go`, and again as a person would where the machine was too busy to give the browser all of the page."""
    for _ in range(4):
        page.go(address)
        if page.js("'dashboard' in globalThis"):
            return
        page.complaints.clear()
    pytest.fail(f"the page's script never came: {page.js('document.documentElement.outerHTML')[:500]}")


def settled(page: Page, address: str, width: int = 1280, height: int = 1500) -> None:
    page.size(width, height)
    opened(page, address)
    page.wait("document.querySelectorAll('#streams tr').length === 3")
    page.wait("document.querySelectorAll('#pictures canvas').length === 1")
    page.wait("dashboard.sizes().latencies > 20")
    page.js("new Promise(requestAnimationFrame)")


def test_it_shows_what_a_running_service_decides_and_nothing_complains(page: Page, shown: str) -> None:
    settled(page, shown)
    assert page.text("#name") == "car" and page.js("document.title").startswith("car: ")
    page.wait("document.querySelector('#state').innerText === 'ready'")
    assert page.text("#label") in ("bright", "dark", "stop", "high")
    assert "of 9000 ms" in page.text("#inputs") and "camera" in page.text("#inputs")
    assert page.js("document.querySelectorAll('#probabilities li').length") == 4
    assert "tiny 1.0.0" in page.text("#bundle") and "nobody" in page.text("#bundle")
    assert "onnxruntime fp32" in page.text("#bundle")
    assert "Captured = decided + dropped + in flight." in page.text("#conserved")
    assert "sink 2 dashboard" in page.text("#ends")
    assert "decisions at tcp://" in page.text("#log") and page.js("!document.querySelector('#log-part').hidden")
    assert page.js("document.querySelectorAll('#turns tr').length") > 1
    assert "latency" in page.text("#times") and "stage vision" in page.text("#times")
    for canvas in ("#pictures canvas", "#timeline", "#histogram"):
        pixels = "c.getContext('2d').getImageData(0, 0, c.width, c.height).data"
        assert page.js(f"(c => new Set({pixels}).size)(document.querySelector('{canvas}'))") > 10, canvas
    page.wait("document.querySelector('#timeline').getAttribute('aria-label').includes(' by ')")
    keep(page, "light")
    assert page.complaints == []
    assert page.asked and all(address.startswith(shown) for address in page.asked), "nothing from elsewhere"


def test_it_fits_a_narrow_screen_in_both_schemes_and_can_be_read(page: Page, shown: str) -> None:
    for scheme, (width, height) in (("dark", (360, 3400)), ("light", (360, 800)), ("dark", (1280, 1500))):
        page.scheme(scheme)
        settled(page, shown, width, height)
        assert page.js("document.documentElement.scrollWidth") <= width, "no sideways scrolling"
        keep(page, f"{scheme}-{width}")
        for selector in ("body", ".panel", ".panel .quiet", "#state", "#source", "#pause", "th"):
            assert contrast(page, selector) >= 4.5, f"{selector} in {scheme}"
    assert page.js("getComputedStyle(document.body).backgroundColor") == "rgb(15, 20, 25)"
    assert page.complaints == []


def contrast(page: Page, selector: str) -> float:
    """Of an element's text against what is behind it (https://www.w3.org/TR/WCAG22/#dfn-contrast-ratio)."""
    colours = page.js(
        f"""(element => {{
            let behind = element;
            while (getComputedStyle(behind).backgroundColor === "rgba(0, 0, 0, 0)") behind = behind.parentElement;
            return [getComputedStyle(element).color, getComputedStyle(behind).backgroundColor];
        }})(document.querySelector("{selector}"))"""
    )
    one, other = (_luminance([int(part) for part in re.findall(r"\d+", colour)[:3]]) for colour in colours)
    return (max(one, other) + 0.05) / (min(one, other) + 0.05)


def _linear(colour: list[int]) -> Any:
    shares = np.asarray(colour) / 255
    return np.where(shares <= 0.04045, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4)


def _luminance(colour: list[int]) -> float:
    return float(_linear(colour) @ [0.2126, 0.7152, 0.0722])


VISION = {
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
    "none": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
}
"""What the colour blind see of linear RGB (Machado, Oliveira and Fernandes, 2009, severity 1)."""


@pytest.mark.parametrize("kind", VISION)
def test_colours_that_mean_something_are_told_apart_by_the_colour_blind(kind: str) -> None:
    style, script = (PAGE / "page.css").read_text(), (PAGE / "page.js").read_text()
    (palette,) = re.findall(r"const PALETTE = \[(.*?)\]", script)
    marks = [re.findall(rf"--{name}: (#\w{{6}})", style) for name in ("good", "warn", "bad")]
    for colours in (re.findall(r"#\w{6}", palette), *zip(*marks, strict=True)):
        seen = [_lab(np.asarray(VISION[kind]) @ _linear(list(bytes.fromhex(one[1:])))) for one in colours]
        for (first, a), (second, b) in itertools.combinations(zip(colours, seen, strict=True), 2):
            assert np.linalg.norm(a - b) > 15, f"{first} and {second}"


def _lab(linear: Any) -> Any:
    """CIE L*a*b* of linear sRGB (D65)."""
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    x, y, z = np.cbrt(np.clip(np.asarray(to_xyz) @ linear, 0, None) / [0.9505, 1, 1.089])
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def test_everything_is_reached_by_the_keyboard(page: Page, shown: str) -> None:
    settled(page, shown)
    reached = []
    for _ in range(14):
        page.key("Tab", 9)
        reached.append(page.js("(e => e.id || e.getAttribute('aria-label') || e.className)(document.activeElement)"))
    assert reached[:3] == ["skip", "span", "pause"]
    regions = page.js(
        "[...document.querySelectorAll('.scroll')].filter(e => e.offsetParent).map(e => e.getAttribute('aria-label'))"
    )
    assert len(regions) >= 5 and set(regions) <= set(reached)
    page.js("document.querySelector('#pause').focus()")
    page.key(" ", 32)
    page.wait("document.querySelector('#pause').getAttribute('aria-pressed') === 'true'")
    page.wait("document.querySelector('#trouble').innerText.startsWith('Paused')")
    page.key(" ", 32)
    page.wait("document.querySelector('#pause').getAttribute('aria-pressed') === 'false'")
    assert page.js("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    assert page.complaints == []


def test_boxes_safe_decisions_and_troubles_are_shown(page: Page, made: tuple[Feed, Dashboard]) -> None:
    feed, served = made
    hostile = "<img src=x onerror=alert(1)>"
    things = (Detection("person", 0.91, (0.25, 0.25, 0.75, 0.75), track=4, zones=("door",)),)
    told = msgspec.structs.replace(status(1), state="degraded", reason="camera is silent", unrouted={hostile: 3})
    page.size(1280, 1500)
    opened(page, served.endpoint)
    page.wait("dashboard.sizes().nodes > 100")
    feed.publish(told)
    picture = jpeg(np.full((90, 160, 3), 40, np.uint8))
    inputs = {"camera": InputState(True, 12.0, 1), "text": InputState(False, 6100.0, 1, None, "expired")}
    feed.took(Frame("camera", 1, 1, picture))
    feed.publish(
        decision(
            1, label=hostile, source="safe", reason="text missing", detections=things, inputs=inputs,
            latency_ms=Latency(9.0, 0.1, 0.1, {}, 0.1),
        )
    )  # fmt: skip
    page.wait("document.querySelector('#detections').innerText.includes('person 0.91 #4 in door')")
    for number in range(2, 1000):  # a picture that comes before anybody looks is not kept
        if page.js(f"{red_at(9, 9)} === 40"):
            break
        feed.took(Frame("camera", number, number, picture))
        time.sleep(0.1)
    page.wait(f"{red_at(9, 9)} === 40")
    page.wait(f"Math.abs({red_at(160, 180)} - 40) > 30")
    assert page.text("#label") == hostile, "as text"
    assert page.text("#source") == "safe: text missing"
    assert "expired, 6100 ms" in page.text("#inputs")
    assert "camera is silent" in page.text("#trouble")
    assert f"{hostile} 3" in page.text("#conserved")
    page.wait("document.querySelector('#trouble').innerText.includes('No decision comes any more')")
    page.wait("document.querySelector('#facts').innerText.includes(' ago')")
    keep(page, "boxes")
    assert page.complaints == []
    served.close()
    page.wait("document.querySelector('#state').innerText === 'no connection'")


def red_at(x: int, y: int) -> str:
    """How red the picture is there, read of a copy: reading of a canvas makes it a slow one, which is complained of."""
    return f"""(canvas => {{
        const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext("2d", {{willReadFrequently: true}});
        copy.drawImage(canvas, 0, 0);
        return copy.getImageData({x}, {y}, 1, 1).data[0];
    }})(document.querySelector("#pictures canvas"))"""


def test_a_hidden_or_paused_page_is_nobody_who_looks(page: Page, made: tuple[Feed, Dashboard]) -> None:
    feed, served = made
    opened(page, served.endpoint)
    wait_for(lambda: feed.watched, "the page")
    for hidden in ("true", "false"):
        page.js(
            f"Object.defineProperty(document, 'hidden', {{value: {hidden}, configurable: true}});"
            "document.dispatchEvent(new Event('visibilitychange'))"
        )
        wait_for(lambda hidden=hidden: feed.watched is (hidden == "false"), hidden)  # type: ignore[misc]
    page.js("document.querySelector('#pause').click()")
    wait_for(lambda: not feed.watched, "the pause")


def test_a_page_that_lost_its_script_says_so_and_can_be_loaded_again(page: Page, made: tuple[Feed, Dashboard]) -> None:
    _, served = made
    page.call("Network.setBlockedURLs", urls=["*page.js"])
    page.call("Page.navigate", url=served.endpoint)
    stuck = "document.querySelector('#stuck')"
    page.wait(f"{stuck} && getComputedStyle({stuck}).visibility === 'visible'")
    assert "load it again" in page.text("#stuck")
    page.call("Network.setBlockedURLs", urls=[])
    page.js(f"{stuck}.querySelector('a').click()")
    page.wait(f"'dashboard' in globalThis && !{stuck}")
    page.complaints.clear()


def test_the_token_is_asked_for_and_opens_the_page(page: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "WRONG_TOKEN_S", 0.0)
    token = tmp_path / "token"
    token.write_text("a-token-of-some-length\n")
    token.chmod(0o600)
    served = Dashboard(Feed(), "tcp://127.0.0.1:*", token, None, None)
    try:
        page.size(800, 600)
        page.go(served.endpoint)
        for typed, then in (("wrong", "#token"), ("a-token-of-some-length", "#timeline")):
            page.js("document.querySelector('#token').focus()")
            page.js("globalThis.old = true")
            page.call("Input.insertText", text=typed)
            page.call("Input.dispatchKeyEvent", type="keyDown", key="Enter", windowsVirtualKeyCode=13, text="\r")
            page.wait(f"!globalThis.old && document.readyState === 'complete' && !!document.querySelector('{then}')")
        page.wait("document.querySelector('#state').innerText !== 'no connection'")
        assert "token" not in page.js("location.href") and page.js("document.cookie") == ""
    finally:
        served.close()


def test_a_day_leaves_no_more_behind_than_a_minute(page: Page, made: tuple[Feed, Dashboard]) -> None:
    """As many views as a day has, of a service that changes its mind, says much and is restarted."""
    feed, served = made
    page.size(1280, 1500)
    opened(page, served.endpoint)
    feed.publish(status(0))
    feed.publish(decision(0))
    page.wait("document.querySelector('#name').innerText === 'car'")
    page.js("document.querySelector('#pause').click()")  # from here on only what is made up below
    told, said = (msgspec.json.encode(one).decode() for one in (status(1), decision(1)))
    page.js((Path(__file__).parent / "day.js").read_text())

    def taken(begin: int, count: int) -> dict[str, int]:
        sizes: dict[str, int] = page.js(f"feedDay({told}, {said}, {begin}, {count})")
        return sizes

    early = taken(1, MINUTES_VIEWS)
    heap = page.heap()
    for begin in range(MINUTES_VIEWS, DAY_VIEWS, DAY_VIEWS // 4):
        late = taken(begin, DAY_VIEWS // 4)
    assert late["turns"] <= 256 and late["points"] <= 3600 and late["latencies"] <= 4000 and late["lines"] <= 100
    assert late["nodes"] <= early["nodes"] + 20
    assert page.heap() < heap + (2 << 20)
    assert page.complaints == []
