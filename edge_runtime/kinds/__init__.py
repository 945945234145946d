"""The kinds of streams, a module each. `edge_runtime.streams` is the table that names them."""
