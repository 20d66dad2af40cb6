"""What a training runs on: devices, precision, the compiler, CUDA graphs."""
