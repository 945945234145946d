"""Does fusion help? Other models and classical methods on the same moments."""
