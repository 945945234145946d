"""Labelled data: its layouts, and what is done to it on the way to training."""
