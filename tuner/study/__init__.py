"""What a study is: its document, its search space, its states. Plain values: no torch, no I/O.

This package imports nothing itself: `tuner.study.hyperparameter` must be importable without pydantic.
"""
