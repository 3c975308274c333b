"""What the `tuner` command shows: numbers, tables, reports, live progress, and the demo that ties them together.

Nothing here knows the server's code; everything is drawn from the values of `tuner.wire.views`. Output is plain text
without control codes where it does not go to a terminal.
"""
