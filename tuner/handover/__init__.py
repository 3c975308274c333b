"""A tuned configuration as Python to paste, or as a file that trains it again.

Code is written from plain values: the server writes snippets too, and loads neither torch nor a workload.
"""

from tuner.handover.own_code import configuration
from tuner.handover.snippet import snippet
from tuner.handover.train_file import Trained, train_file

__all__ = ["Trained", "configuration", "snippet", "train_file"]
