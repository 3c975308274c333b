"""What a study found: the winner, the leaderboard, batch-size advice, curves and noise traces, computed from its
rows."""
