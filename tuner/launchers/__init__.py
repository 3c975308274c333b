"""Where workers come from: processes of this machine (`local.py`)."""
