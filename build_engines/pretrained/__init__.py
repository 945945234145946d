"""Networks that somebody else trained: where their files lie, and how they are read without running anything."""
