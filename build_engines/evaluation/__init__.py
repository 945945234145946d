"""The evaluation standard: what a bundle's report says, and how far it can be trusted."""
