"""A script that a worker runs once per trial, and that runs by itself as well.

    tuner submit examples/own-loop.yaml
    tuner worker --command "python examples/own_script.py --lr {lr} --momentum {momentum}"

It fits one number by gradient descent, in plain Python.
"""

import argparse

import tuner

parser = argparse.ArgumentParser()
parser.add_argument("--lr", type=float, default=0.1)
parser.add_argument("--momentum", type=float, default=0.0)
options = parser.parse_args()

trial = tuner.trial()  # None outside a worker
print(f"training with lr {options.lr}" + (f", trial {trial.number}" if trial else ""))
weight = speed = 0.0
for step in range(1, 101):
    speed = options.momentum * speed - options.lr * (weight - 3)
    weight += speed
    tuner.report(step=step, loss=(weight - 3) ** 2)
