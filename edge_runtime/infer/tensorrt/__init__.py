"""TensorRT: find the library, build an engine from a verified graph, keep engines on disk. Importing needs none of it.

Both flavours are served, NVIDIA's `tensorrt` (10.3 on JetPack 6 and later) and `tensorrt_rtx` (1.x, PCs), by the same
strongly typed graphs: precision is written in the graph, never asked for in a flag.
"""
