"""What a release gate is, and which gates are installed. The gates themselves are in no file of
this package: each is a folder of its own, found by an entry point of the group ``infopt.gates``."""
