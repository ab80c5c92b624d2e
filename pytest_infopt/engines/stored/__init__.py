"""What a reference predicted, kept in a folder: the model itself need not be here."""
