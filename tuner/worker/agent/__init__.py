"""The agent: a worker's conversation with the server, and its device processes.

agent.py        the sync protocol: when to sync, what to do with a reply
holdings.py     what the worker holds, under one lock
attempts.py     the attempts among it, and how each of them ends
outbox.py       reports and final messages that the server has not acknowledged
ahead.py        how many assignments to keep ahead of the slots
child.py        one device process: start, restart, messages
watchdog.py     ends device processes that stopped ticking
gpus.py         which GPUs there are, without loading torch
"""
