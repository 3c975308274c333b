"""Script trials: a command of the worker's owner, run once per trial.

run.py        starting a worker that runs scripts
place.py      one place for a script, as the agent sees a device
script.py     one run of the command: its process group, its output, its reports, its end
keeper.py     the process that the command runs under: it ends with the worker
command.py    the command with a configuration's values in it; the environment
reported.py   the file in which a script reports

Nothing that arrives over HTTP is executed: the command is the owner's, values are single arguments, and no shell sees
them.
"""
