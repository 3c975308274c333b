"""Starting workers: as processes on this machine (`local.py`)."""
