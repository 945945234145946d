"""The same work over the recordings of a fleet: each is looked at by itself, and what was seen is put together.

`recordings` finds them; a task (`task`) makes a partial of each, by an executor (`executors`), and partials are reduced
in the order of the recordings' ids: a report does not depend on who did what when.
"""
