"""The version, which every report, journal and baseline carries."""

__version__ = "0.1.0"
