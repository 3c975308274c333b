"""What travels between server, workers and clients: plain pydantic values, one vocabulary for both ends.

Non-finite numbers travel as "NaN", "Infinity" and "-Infinity", because JSON has no word for them.
"""
