"""Measurements before and during training: which program is fastest on this machine, and what fits in memory.

choice.py    the results of probes, kept on disk; needs no torch
bench.py     timing stacks of every path and width
memory.py    the memory that a stack needs
room.py      the memory that is available
"""
