"""What a study found, read from its rows: the winner, the leaderboard, batch-size advice, curves, noise traces."""
