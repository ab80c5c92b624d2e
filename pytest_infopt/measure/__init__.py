"""Raw, paired samples of two engines. Nothing is judged here."""
