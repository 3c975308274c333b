"""What a study is: its document, its search space, its states. Plain values: no torch, no I/O.

This package imports nothing on its own: `tuner.study.hyperparameter` must be importable where pydantic is absent.
"""
