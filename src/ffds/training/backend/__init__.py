"""What a training asks of devices, compiler and memory."""
