"""Workers: they fetch trials from the server, train them, and report what came out.

    run.py       starting a worker: devices, processes, signals
    agent/       the process that talks to the server; loads no torch
    device/      the process that runs the engine on one device; knows neither server nor agent
    channel.py   JSON lines between the two

These packages import nothing on their own: a device process must not load what only the agent needs.
"""
