"""The experiments, one module a recipe, and the data that they make or read."""
