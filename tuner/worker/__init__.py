"""Workers: they fetch trials from the server, train them, and report the results.

    run.py       starting a worker: devices, processes, signals
    agent/       the process that talks to the server; loads no torch
    scripts/     script trials: a command of the worker's owner, run once per trial
    device/      the process that runs the engine on one device; knows neither server nor agent
    channel.py   JSON lines between the two

These packages import nothing themselves: a device process must not load modules that only the agent needs.
"""
