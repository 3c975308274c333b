"""What a study found: the winner, the leaderboard, batch-size advice, curves and noise traces, read from its rows."""
