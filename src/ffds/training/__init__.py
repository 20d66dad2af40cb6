"""Training: the loop, its checkpoints, and what it leaves."""
