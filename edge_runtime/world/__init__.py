"""A small closed-loop town: a car that is driven by published decisions, and the senses to decide by.

It runs as its own process (`python -m edge_runtime.world`) and speaks to the runtime over ZeroMQ only, as a real
vehicle would. The task needs all three modalities: a light's colour is seen by the camera only, a vehicle in fog by
the range sensor only, and where to turn is said in the text only.
"""
