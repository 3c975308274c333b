"""Output of the `tuner` command: numbers, tables, reports, live progress, and the demo that combines them.

Nothing here depends on the server's code; everything is rendered from the values of `tuner.wire.views`. Output is plain
text without control codes unless it goes to a terminal.
"""
