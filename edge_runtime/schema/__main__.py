"""`python -m edge_runtime.schema` writes the schema files."""

from edge_runtime.schema import write_all

write_all()
