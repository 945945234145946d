"""Speech to sentences of a grammar: what may be said, who listens, and how sure it is. Optional packages only."""
