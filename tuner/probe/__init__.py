"""What is measured before and beside training: which program is fastest on this machine, and what fits in memory.

choice.py    what probes found, kept on disk; needs no torch
bench.py     timing stacks of every path and width
memory.py    the memory that a stack takes
room.py      the memory that there is
"""
