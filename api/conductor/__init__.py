"""The control plane: decides which trials exist and when a study is over.

The database is the only truth; whatever is kept in memory here can be lost at any moment.
"""
