"""A search for the settings of FFDS, on validation images that are held out of the training set."""
