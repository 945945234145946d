"""Decisions and status of an edge-runtime as messages of ROS 2: plain dictionaries by the names of their fields.

Pure, without ROS: `vision_msgs` 4 (Classification, Detection2DArray) and `diagnostic_msgs` (DiagnosticArray).
`decision` and `status` are what was published, parsed from JSON; their schemas are in edge_runtime/schema/.
"""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

OK, WARN, ERROR = 0, 1, 2
"""Of diagnostic_msgs/DiagnosticStatus."""
LEVELS = {"ready": OK, "stopping": WARN, "stopped": ERROR}
"""Of a runtime, by its state; WARN where it is another."""

Message = dict[str, Any]


def classification(decision: Message, frame_id: str = "") -> Message:
    """vision_msgs/Classification: the label first, as sure as it is, then the others by their probability. A safe
    decision is its label alone: what the model would have said is nothing to act on."""
    others = decision["probabilities"] if decision["source"] == "model" else {}
    rest = sorted(((score, name) for name, score in others.items() if name != decision["label"]), reverse=True)
    scores = [(decision["label"], decision["confidence"]), *((name, score) for score, name in rest)]
    return {
        "header": _captured(decision, frame_id),
        "results": [{"class_id": name, "score": float(score)} for name, score in scores],
    }


def detections(decision: Message, size: tuple[float, float] = (1.0, 1.0), frame_id: str = "") -> Message | None:
    """vision_msgs/Detection2DArray, in pixels of a picture whose width and height are `size` (as it is, in shares of
    the picture); None where the runtime did not look, which is not the same as nothing being there."""
    if decision.get("detections") is None:
        return None
    header = _captured(decision, frame_id)
    width, height = size
    found = []
    for thing in decision["detections"]:
        left, top, right, bottom = thing["box"]
        centre = {"x": (left + right) / 2 * width, "y": (top + bottom) / 2 * height}
        found.append(
            {
                "header": header,
                "results": [{"hypothesis": {"class_id": thing["class"], "score": float(thing["score"])}}],
                "bbox": {
                    "center": {"position": centre, "theta": 0.0},
                    "size_x": (right - left) * width,
                    "size_y": (bottom - top) * height,
                },
                "id": str(thing["track"]) if "track" in thing else "",
            }
        )
    return {"header": header, "detections": found}


def diagnostics(status: Message) -> Message:
    """diagnostic_msgs/DiagnosticArray: the runtime, each of its streams, and each source and sink in trouble."""
    name = f"edge-runtime: {status['name']}"
    bundle = status["bundle"]
    hardware = f"{bundle['name']} {bundle['version']}"
    rows = [
        _row(
            name,
            hardware,
            LEVELS.get(status["state"], WARN),
            status["reason"] or status["state"],
            {
                "state": status["state"],
                "decisions": status["decisions"],
                "safe decisions": status["safe_decisions"],
                "latency p50 ms": status["latency_ms"]["p50"],
                "latency p99 ms": status["latency_ms"]["p99"],
                "every message accounted for": status["conserved"],
                "memory MB": status["memory_mb"],
                "temperature C": status.get("temperature_c"),
                "uptime s": status["uptime_s"],
                "bundle digest": bundle["digest"],
            },
        )
    ]
    for stream, health in status["streams"].items():
        dropped = {f"dropped {reason}": count for reason, count in health["dropped"].items()}
        rows.append(
            _row(
                f"{name}: {stream}",
                hardware,
                OK if health["alive"] else WARN,
                "alive" if health["alive"] else "nothing that is new enough",
                {
                    "rate Hz": health["rate_hz"],
                    "expected Hz": health["expected_hz"],
                    "captured": health["captured"],
                    "decided": health["decided"],
                    **dropped,
                },
            )
        )
    for sink, health in status.get("sinks", {}).items():
        if health["state"] != "open":
            why = health["reason"] or health["state"]
            rows.append(_row(f"{name}: sink {sink}", hardware, WARN, why, {"dropped": health["dropped"]}))
    for source in status.get("sources", []):
        if source["reason"]:
            level = ERROR if source["state"] == "failed" else WARN
            rows.append(_row(f"{name}: source {source['name']}", hardware, level, source["reason"], {}))
    return {"header": {"stamp": _stamp(status["wall_time"]), "frame_id": ""}, "status": rows}


def _row(name: str, hardware: str, level: int, message: str, values: Message) -> Message:
    told = [{"key": key, "value": str(value)} for key, value in values.items() if value is not None]
    return {"level": level, "name": name, "message": message, "hardware_id": hardware, "values": told}


def _captured(decision: Message, frame_id: str) -> Message:
    """The header: stamped when what was decided on was captured, by this host's wall clock."""
    age_ns = decision["published_ns"] - decision["captured_ns"]
    return {"stamp": _stamp(decision["wall_time"], age_ns), "frame_id": frame_id}


def _stamp(wall_time: str, age_ns: int = 0) -> Message:
    """builtin_interfaces/Time, so long before an RFC 3339 time in UTC."""
    then = datetime.fromisoformat(wall_time.replace("Z", "+00:00")) - datetime(1970, 1, 1, tzinfo=timezone.utc)
    nanoseconds = ((then.days * 86400 + then.seconds) * 1_000_000 + then.microseconds) * 1000 - age_ns
    return {"sec": nanoseconds // 1_000_000_000, "nanosec": nanoseconds % 1_000_000_000}
