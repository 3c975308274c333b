"""Which configuration next, and which one won. The only package that imports optuna.

Proposals are computed in a process of their own (`tuner.search.process`): a TPE thread inside the server triples its
latency. They are pure functions of the request, so that a restarted server repeats none and loses none.
"""
