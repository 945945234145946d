"""Recordings: what a live run took in and decided, as an MCAP file (https://mcap.dev) that Foxglove opens as it is.

Topics: `/streams/<stream>` (pictures as `foxglove.CompressedImage`), `/decision`, `/status`, and `/session` where a
bundle begins to decide. All are JSON with their JSON Schema in the file. The order of the file is the order in which
the loop took messages and made decisions, which is what makes a replay exact; log times are wall time, for people.
"""
