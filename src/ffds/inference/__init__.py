"""Trained networks, loaded from their run directories."""
