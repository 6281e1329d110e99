"""From an architecture's term to a module: shapes and costs, the body, and the whole model."""
