"""What other tools measured of a model, read from the files that they wrote."""
