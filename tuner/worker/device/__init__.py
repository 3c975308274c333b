"""The device process: one device, one stack at a time.

device.py        the process itself: `python -P -m tuner.worker.device.device`
runner.py        its work: a backlog of assignments and the stack that trains them
announcer.py     messages about its stack and trials
stack_choice.py  which stack to build: width, path, program
pinned.py        whether the program of a reproducible study can run here
checkpoints.py   when trials are checkpointed, and the thread that writes
warming.py       a second process that compiles (warm.py) for the next stack
probing.py       processes that measure together (probe_process.py)
"""
