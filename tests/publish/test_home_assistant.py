"""What Home Assistant is told: by models of its discovery payloads, and by templates on real messages."""

from __future__ import annotations

import re
from typing import Any

import jinja2
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2.sandbox import ImmutableSandboxedEnvironment

from edge_runtime.messages import Detection
from edge_runtime.publish.home_assistant import (
    MAX_COUNTS,
    MAX_LABELS,
    Known,
    Topics,
    announcement,
    config_topic,
    counted,
    learned,
)
from edge_runtime.publish.sink import published
from edge_runtime.wire import DecisionMessage, InputState, Percentiles, StatusMessage, StreamHealth
from tests.publish.test_sinks import decision, status

TOPICS = Topics("e/porch/decision", "e/porch/status", "e/porch/availability")
KNOWN = Known("porch", "tiny 1", "0.1.0", ("camera.front", "sensors"), ("door",))
SEEN = Detection("person", 0.9, (0.1, 0.1, 0.2, 0.9), zones=("door",))
NAMES = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=12)


def looking(*things: Detection, **changes: Any) -> DecisionMessage:
    table = {"person": 0.9, "dog": 0.1}
    return decision(0, label="person", probabilities=table, detections=things, **changes)


def shown(payload: dict[str, Any], key: str, message: DecisionMessage | StatusMessage) -> str:
    """The state that the entity `key` gets from `message`, as Home Assistant renders templates."""
    environment = ImmutableSandboxedEnvironment(undefined=jinja2.StrictUndefined)
    environment.tests["contains"] = lambda container, value: value in container  # Home Assistant's own
    component = payload["components"][key]
    expected = TOPICS.decision if isinstance(message, DecisionMessage) else TOPICS.status
    assert component["state_topic"] == expected, key
    value = msgspec.json.decode(published(message).payload)
    return environment.from_string(component["value_template"]).render(value_json=value)


def check(payload: dict[str, Any]) -> None:
    """By the models, which know Home Assistant's keys; and its rules that they leave out."""
    models = pytest.importorskip("ha_mqtt_models_pydantic", reason="ha-mqtt-models-pydantic needs Python 3.11")
    again = msgspec.json.decode(msgspec.json.encode(payload))
    parsed = models.parse_device_discovery_payload(again, expand_aliases=False)
    assert parsed.device.identifiers and parsed.origin.name
    assert set(again) <= known_keys(type(parsed))
    for key, component in again["components"].items():
        assert re.fullmatch(r"[a-z0-9_]+", key)
        model = models.parse_component_payload(component["platform"], component, expand_aliases=False)
        assert set(component) - {"platform"} <= known_keys(type(model)), key
        assert component["default_entity_id"].startswith(component["platform"] + ".") and "object_id" not in component
        # homeassistant/components/mqtt/sensor.py, validate_sensor_state_and_device_class_config
        if "options" in component:
            assert component["options"] and component["device_class"] == "enum"
            assert "state_class" not in component and "unit_of_measurement" not in component
        if component.get("device_class") == "duration":
            assert component["unit_of_measurement"] in ("d", "h", "min", "s", "ms", "µs")
    unique = [component["unique_id"] for component in again["components"].values()]
    assert len(set(unique)) == len(unique)


def known_keys(model: Any) -> set[str]:
    return {field.alias or name for name, field in model.model_fields.items()}


def test_the_announcement_is_one_that_home_assistant_takes() -> None:
    known = learned(learned(KNOWN, looking(SEEN)), decision(1, values={"speed": 3.0}))
    payload = announcement(known, TOPICS, 60)
    check(payload)
    assert set(payload["components"]) == {
        *("decision", "confidence", "reason", "problem", "trouble", "value_speed"),
        *("count_person_picture", "count_person_door", "count_dog_picture", "count_dog_door"),
        *("age_camera_front", "age_sensors", "latency_p50", "latency_p99", "drops", "bundle"),
    }
    assert payload["components"]["decision"]["default_entity_id"] == "sensor.porch_decision"
    assert payload["availability_topic"] == TOPICS.availability


@settings(max_examples=20)
@given(name=st.from_regex(r"[a-z][a-z0-9_.-]{0,62}", fullmatch=True), labels=st.lists(NAMES, unique=True, max_size=5))
def test_any_names_make_one_and_distinct_entities(name: str, labels: list[str]) -> None:
    message = decision(0, probabilities=dict.fromkeys(labels, 0.5), label=labels[0] if labels else "x", detections=())
    known = learned(msgspec.structs.replace(KNOWN, name=name), message)
    payload = announcement(known, TOPICS, 60)
    unique = [component["unique_id"] for component in payload["components"].values()]
    assert len(set(unique)) == len(unique)
    assert all(re.fullmatch(r"[a-z0-9_]+", key) for key in payload["components"])
    assert re.fullmatch(r"homeassistant/device/[a-zA-Z0-9_-]+/config", config_topic("homeassistant", name))
    for label in labels:
        key = next(key for key, component in payload["components"].items() if component["name"] == label)
        one = msgspec.structs.replace(message, detections=(Detection(label, 1, (0, 0, 1, 1)),))
        assert shown(payload, key, one) == "1"


def test_every_label_that_may_be_said_is_among_the_options() -> None:
    known = learned(KNOWN, decision(0, label="wait", source="safe", probabilities={}))
    assert known.labels == ("wait",)
    known = learned(known, decision(1, label="go", probabilities={"go": 0.8, "stop": 0.2}))
    assert announcement(known, TOPICS, 60)["components"]["decision"]["options"] == ["wait", "go", "stop"]
    assert learned(known, decision(2, label="stop", probabilities={"go": 0.1, "stop": 0.9})) is known


def test_more_labels_than_a_list_takes_are_any_text() -> None:
    many = learned(KNOWN, decision(0, probabilities=dict.fromkeys(map(str, range(MAX_LABELS + 1)), 0.0)))
    label = announcement(many, TOPICS, 60)["components"]["decision"]
    assert "options" not in label and "device_class" not in label


def test_a_decision_is_shown() -> None:
    inputs = {"camera.front": InputState(True, 12.5, 1), "sensors": InputState(False, 900.0, 1, None, "stale")}
    said = decision(0, label="keep", confidence=0.8754, inputs=inputs)
    payload = announcement(learned(KNOWN, said), TOPICS, 60)
    shows = {key: shown(payload, key, said) for key in ("decision", "confidence", "reason")}
    assert shows == {"decision": "keep", "confidence": "87.5", "reason": "none"}
    assert shown(payload, "age_camera_front", said) == "12.5"
    assert shown(payload, "age_sensors", said) == "None", "unknown, not as old as what was too old to be used"
    safe = msgspec.structs.replace(said, source="safe", reason="x" * 400)
    assert shown(payload, "reason", safe) == "x" * 255, "Home Assistant refuses a longer state"


def test_things_are_counted_by_zone_and_not_looking_is_no_zero() -> None:
    payload = announcement(learned(KNOWN, looking(SEEN)), TOPICS, 60)
    two = looking(SEEN, Detection("person", 0.6, (0.5, 0.5, 0.6, 0.6), zones=()))
    assert shown(payload, "count_person_picture", two) == "2"
    assert shown(payload, "count_person_door", two) == "1"
    assert shown(payload, "count_dog_door", two) == "0"
    blind = decision(1, label="none", source="safe", reason="camera.front: stale", probabilities={})
    assert shown(payload, "count_person_door", blind) == "None"


def test_only_classes_that_are_asked_for_are_counted_and_never_too_many() -> None:
    known = learned(KNOWN, looking(SEEN))
    assert counted(known, ("dog",)) == [("dog", "picture"), ("dog", "door")]
    many = msgspec.structs.replace(known, classes=tuple(map(str, range(MAX_COUNTS))))
    assert counted(many, ()) == [] and len(counted(many, ("7",))) == 2


def test_values_of_a_regression_are_shown() -> None:
    said = decision(0, label="values", values={"speed": 3.25, 'odd "name"': 1.0})
    payload = announcement(learned(KNOWN, said), TOPICS, 60)
    check(payload)
    assert shown(payload, "value_speed", said) == "3.25"
    assert shown(payload, "value_odd_name", said) == "1.0"
    assert shown(payload, "value_speed", decision(1)) == "None"


def test_status_is_shown() -> None:
    dropped = [{"replaced": 3, "stale": 2}, {}, {"over_rate": 1}]
    streams = {str(n): StreamHealth(9, 1, drops, 0, 1.0, 1.0, True) for n, drops in enumerate(dropped)}
    told = msgspec.structs.replace(status(0), streams=streams, latency_ms=Percentiles(9, 4.5, 5.0, 7.25, 9.0))
    payload = announcement(learned(KNOWN, decision(0)), TOPICS, 60)
    shows = {key: shown(payload, key, told) for key in ("problem", "trouble", "latency_p99", "drops", "bundle")}
    assert shows == {"problem": "OFF", "trouble": "none", "latency_p99": "7.25", "drops": "6", "bundle": "tiny 1"}
    bad = msgspec.structs.replace(told, state="degraded", reason="camera is silent", latency_ms=status(0).latency_ms)
    assert shown(payload, "problem", bad) == "ON" and shown(payload, "trouble", bad) == "camera is silent"
    assert shown(payload, "latency_p99", bad) == "None"


def test_what_is_gone_is_taken_away_once() -> None:
    payload = announcement(learned(KNOWN, decision(0)), TOPICS, 60, gone={"age_radar": "sensor", "drops": "sensor"})
    assert payload["components"]["age_radar"] == {"platform": "sensor"}
    assert payload["components"]["drops"]["unique_id"], "it is not gone"
