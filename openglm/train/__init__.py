"""One training loop, its optimizers, its checkpoints, and the recipes that feed it."""
