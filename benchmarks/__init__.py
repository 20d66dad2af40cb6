"""Speed and memory, side by side with what users would do without this package."""
