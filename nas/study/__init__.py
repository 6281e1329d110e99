"""The record of a search: an Optuna study in a database, with one writer at a time."""
