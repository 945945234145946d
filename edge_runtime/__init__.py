"""Run fused camera + sensor + text models on edge devices."""

from edge_runtime.publish.subscriber import Subscriber

__all__ = ["Subscriber"]
