"""What the engine has to know of the machine: its hardware, its memory and when that is exhausted."""
