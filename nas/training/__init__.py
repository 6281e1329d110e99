"""Training one architecture on one task: budgets in steps, exact continuation from a checkpoint."""
