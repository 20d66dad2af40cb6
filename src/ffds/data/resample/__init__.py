"""Re-sampling: which training images an epoch draws."""
