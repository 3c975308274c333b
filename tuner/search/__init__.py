"""Which configuration to try next, and which one won. The only package that imports optuna.

Proposals are computed in a separate process (`tuner.search.process`): a TPE thread inside the server triples its
latency. They are pure functions of the request, so a restarted server neither repeats nor loses any.
"""
