"""The sub-commands of `tools/prepare_points.py`: arguments, calls, and what is printed.

What they do lives in the modules of `cpr.data`, which are imported when a command runs.
"""
