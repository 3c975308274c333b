"""The database: tables, one module of queries per noun, migrations.

Query functions take a `session` first and keyword arguments after, return values (never rows), and neither commit nor
read the clock: the caller owns the transaction and passes `now`.
"""
