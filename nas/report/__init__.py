"""What a person is shown of a study: live progress, the leaderboard, the final comparison."""
