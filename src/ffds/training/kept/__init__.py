"""What a run keeps: averaged weights, the network of the best epoch, a classifier in closed form."""
