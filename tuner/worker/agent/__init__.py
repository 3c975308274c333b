"""The agent: a worker's communication with the server, and its device processes.

agent.py        the sync protocol: when to sync, what to do with a reply
holdings.py     the worker's trials and messages, under one lock
attempts.py     the attempts it holds, and how each of them ends
outbox.py       reports and final messages that the server has not acknowledged
ahead.py        how many assignments to keep ahead of the slots
device.py       what it needs of a device
tail.py         the end of what a process prints
child.py        one device process: start, restart, messages
watchdog.py     terminates device processes that have stopped ticking
gpus.py         lists the GPUs, without loading torch
"""
