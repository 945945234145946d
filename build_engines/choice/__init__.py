"""Choosing by cross-validation inside the training split, so that the evaluated split sees one model."""
