"""Search strategies and early stopping: pure functions of a study's history."""
