"""Reduced precision: calibration, FP16 and INT8 graphs, what each costs, and the plan."""
