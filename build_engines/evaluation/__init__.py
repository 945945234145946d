"""The evaluation standard: what a bundle's report says, how far it can be trusted, and what to do next."""
