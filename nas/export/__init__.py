"""A trained model as a folder of its own, which needs torch and nothing of this package."""
