"""What architectures are trained and compared on: data with fixed splits, budgets and baselines."""
