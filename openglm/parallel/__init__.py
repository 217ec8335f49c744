"""Sharding from outside the model, and the planner of large runs."""
