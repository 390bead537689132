"""From a laptop to the leaderboard: push, follow, fetch and submit a Kaggle kernel."""
