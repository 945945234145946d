"""The same work by others' runtimes, each in an environment of its own: `python -m benchmarks peers`."""
