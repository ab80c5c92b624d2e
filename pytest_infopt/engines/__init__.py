"""Loaded models that can be scored and timed, and the ways to load them.

`base` is what an engine is, `registry` finds and loads one by its name, `formats` is the table of
number formats.
"""
