"""Telling an address of a user's of the end of a study."""
