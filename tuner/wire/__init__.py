"""Messages between server, workers and clients: plain pydantic values, shared by both ends.

Non-finite numbers are sent as "NaN", "Infinity" and "-Infinity", because JSON cannot represent them.
"""
