"""Measurements: ratios taken side by side in one run, held to `budgets.toml`."""
