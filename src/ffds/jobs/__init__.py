"""Many runs of one command, and the epochs they share."""
