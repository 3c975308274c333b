"""What the engine needs to know about the machine: its hardware, its memory and when memory is exhausted."""
