"""What a run leaves behind and finds again: reference scores, journal, baselines."""
