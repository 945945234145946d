"""How a runtime is announced to Home Assistant: one retained message per device. Pure; any thread.

https://www.home-assistant.io/integrations/mqtt/#device-discovery-payload. The states are the runtime's own decision and
status messages; templates take from them what an entity shows.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from msgspec import Struct, UnsetType

from edge_runtime.wire import DecisionMessage
from edge_runtime.zones import PICTURE

ONLINE, OFFLINE = b"online", b"offline"
MAX_LABELS = 500
"""With more there is no list of them, and the label is any text."""
MAX_COUNTS = 64
"""So many entities for counts, or none: 80 classes in three zones make a page that nobody reads."""
MAX_STATE = 255
"""Characters of an entity's state (homeassistant.const.MAX_LENGTH_STATE_STATE)."""


class Topics(Struct, frozen=True):
    """Where everything about one runtime is published."""

    decision: str
    status: str
    availability: str


class Known(Struct, frozen=True):
    """What is known of a runtime: of its configuration and bundle at once, of its head as it decides."""

    name: str
    model: str
    """Name and version of the bundle."""
    version: str
    streams: tuple[str, ...] = ()
    zones: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    """That may be said."""
    values: tuple[str, ...] = ()
    """Of a regression head."""
    classes: tuple[str, ...] = ()
    """Of a detection head."""


def learned(known: Known, message: DecisionMessage) -> Known:
    """`known`, and what `message` tells besides: whoever has probabilities names all labels in each decision."""
    labels = _union(known.labels, (*message.probabilities, message.label))
    values = known.values if isinstance(message.values, UnsetType) else _union(known.values, message.values)
    classes = known.classes
    if not isinstance(message.detections, UnsetType):
        classes = _union(classes, message.probabilities)
    if (labels, values, classes) == (known.labels, known.values, known.classes):
        return known
    return msgspec.structs.replace(known, labels=labels, values=values, classes=classes)


def _union(one: tuple[str, ...], other: Iterable[str]) -> tuple[str, ...]:
    more = [name for name in dict.fromkeys(other) if name not in one]
    return (*one, *more) if more else one


def device_id(name: str) -> str:
    """Of the runtime `name`, as topics and identifiers may have it."""
    return f"edge_runtime_{_slug(name)}"


def config_topic(prefix: str, name: str) -> str:
    """Where its announcement is kept."""
    return f"{prefix}/device/{device_id(name)}/config"


def announcement(
    known: Known,
    topics: Topics,
    expire_after_s: int,
    count: tuple[str, ...] = (),
    gone: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The payload, as JSON is made of it. `count`: classes that are counted, unless all are; `gone`: components of an
    earlier announcement (by key, with their platform) that are to be taken away where they are no more.
    """
    own = device_id(known.name)
    components: dict[str, dict[str, Any]] = {}
    for key, component in _components(known, topics, expire_after_s, count):
        unique, number = key, 2
        while unique in components:
            unique, number = f"{key}_{number}", number + 1
        component["unique_id"] = f"{own}_{unique}"
        component["default_entity_id"] = f"{component['platform']}.{_slug(known.name)}_{unique}"
        components[unique] = component
    for key, platform in (gone or {}).items():
        components.setdefault(key, {"platform": platform})
    return {
        "device": {
            "identifiers": [own],
            "name": known.name,
            "manufacturer": "edge-runtime",
            "model": known.model,
            "sw_version": known.version,
        },
        "origin": {"name": "edge-runtime", "sw_version": known.version},
        "availability_topic": topics.availability,
        "payload_available": ONLINE.decode(),
        "payload_not_available": OFFLINE.decode(),
        "qos": 1,
        "components": components,
    }


def counted(known: Known, count: tuple[str, ...]) -> list[tuple[str, str]]:
    """Class and zone of every count; none where there are more than MAX_COUNTS."""
    classes = [label for label in known.classes if not count or label in count]
    pairs = [(label, zone) for label in classes for zone in (PICTURE, *known.zones)]
    return pairs if len(pairs) <= MAX_COUNTS else []


def _components(known: Known, topics: Topics, expire_after_s: int, count: tuple[str, ...]) -> Any:
    decided = {"state_topic": topics.decision, "expire_after": expire_after_s}
    told = {"state_topic": topics.status, "expire_after": expire_after_s}
    diagnostic = {"entity_category": "diagnostic"}
    measured = {"state_class": "measurement"}
    milliseconds = {"device_class": "duration", "unit_of_measurement": "ms", "suggested_display_precision": 1}

    label = {"device_class": "enum", "options": list(known.labels)} if 0 < len(known.labels) <= MAX_LABELS else {}
    yield "decision", _sensor("Decision", "{{ value_json.label }}", decided, label)
    yield (
        "confidence",
        _sensor(
            "Confidence",
            "{{ (value_json.confidence * 100) | round(1) }}",
            decided,
            measured,
            {"unit_of_measurement": "%"},
        ),
    )
    yield "reason", _sensor("Reason", _text("value_json.reason"), decided, diagnostic)
    yield (
        "problem",
        {
            "platform": "binary_sensor",
            "name": "Problem",
            "device_class": "problem",
            "value_template": "{{ 'OFF' if value_json.state == 'ready' else 'ON' }}",
            **told,
        },
    )
    yield "trouble", _sensor("Trouble", _text("value_json.reason"), told, diagnostic)
    for name in known.values:
        value = f"(value_json['values'] | default({{}}, true))[{_quoted(name)}]"
        yield f"value_{_slug(name)}", _sensor(name, f"{{{{ {value} | default(none) }}}}", decided, measured)
    for name, zone in counted(known, count):
        things = f"value_json.detections | selectattr('class', 'eq', {_quoted(name)})"
        if zone != PICTURE:
            things += f" | selectattr('zones', 'contains', {_quoted(zone)})"
        # Missing means that nobody has looked, which is not the same as nothing being there.
        template = f"{{{{ ({things} | list | count) if value_json.detections is defined else none }}}}"
        place = "" if zone == PICTURE else f" in {zone}"
        yield f"count_{_slug(name)}_{_slug(zone)}", _sensor(f"{name}{place}", template, decided, measured)
    for name in known.streams:
        part = f"value_json.inputs[{_quoted(name)}]"
        template = f"{{{{ {part}.age_ms if {part}.present else none }}}}"
        yield f"age_{_slug(name)}", _sensor(f"Age of {name}", template, decided, diagnostic, measured, milliseconds)
    for figure in ("p50", "p99"):
        template = f"{{{{ value_json.latency_ms.{figure} }}}}"
        yield (
            f"latency_{figure}",
            _sensor(f"Latency {figure}", template, told, diagnostic, measured, milliseconds),
        )
    drops = (
        "{% set all = namespace(n=0) %}{% for stream in value_json.streams.values() %}"
        "{% set all.n = all.n + stream.dropped.values() | sum %}{% endfor %}{{ all.n }}"
    )
    yield "drops", _sensor("Drops", drops, told, diagnostic, {"state_class": "total_increasing"})
    bundle = "{{ value_json.bundle.name }} {{ value_json.bundle.version }}"
    yield "bundle", _sensor("Bundle", bundle, told, diagnostic)


def _sensor(name: str, template: str, *more: Mapping[str, Any]) -> dict[str, Any]:
    sensor: dict[str, Any] = {"platform": "sensor", "name": name, "value_template": template}
    for part in more:
        sensor |= part
    return sensor


def _text(field: str) -> str:
    """Null is no text: an empty state would leave the one before it standing."""
    return f"{{{{ ({field} or 'none')[:{MAX_STATE}] }}}}"


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_") or "x"


def _quoted(name: str) -> str:
    """As a text in a template."""
    return json.dumps(name, ensure_ascii=False)
