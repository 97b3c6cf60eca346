"""Every number that says how good a model is."""
