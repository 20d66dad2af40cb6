"""Changes of training images: operations, the policies that draw them, mixtures of two images."""
