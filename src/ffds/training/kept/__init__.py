"""What a run keeps: averaged weights, and the network of the best epoch."""
