"""A subscriber process that hears everything and passes on what matters, a JSON line each.

    python -m tests.hostile.witness ENDPOINT [KEYS]

A decision is `{"heard_ns", "published_ns", "captured_ns", "seq", "bundle", "version", "label", "source", "reason",
"latency_ms", "triggered", "inputs"}`, `bundle` being its digest, `inputs` stream to [id, age in ms] of those present; a
status is `{"heard_ns", "status", "lost", "repeated"}`. KEYS is a client's file. Ends when nobody reads any more.
"""

from __future__ import annotations

import json
import sys
import time

import msgspec

from edge_runtime import Subscriber
from edge_runtime.wire import DecisionMessage


def main(endpoint: str, keys: str | None = None) -> None:
    with Subscriber(endpoint, high_water_mark=100_000, keys=keys) as subscriber:
        while True:
            message = subscriber.receive(1.0)
            now_ns = time.monotonic_ns()
            if isinstance(message, DecisionMessage):
                line = {
                    "heard_ns": now_ns,
                    "published_ns": message.published_ns,
                    "captured_ns": message.captured_ns,
                    "seq": message.seq,
                    "bundle": message.bundle.digest,
                    "version": message.bundle.version,
                    "label": message.label,
                    "source": message.source,
                    "reason": message.reason,
                    "latency_ms": message.latency_ms.capture_to_publish,
                    "triggered": message.latency_ms.queue > 0,
                    "inputs": {name: [part.id, part.age_ms] for name, part in message.inputs.items() if part.present},
                }
            elif message is not None:
                status = msgspec.to_builtins(message)
                line = {"heard_ns": now_ns, "status": status, "lost": subscriber.lost, "repeated": subscriber.repeated}
            else:
                line = {"heard_ns": now_ns, "silent": True}
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except (BrokenPipeError, KeyboardInterrupt):
        sys.stderr.close()
