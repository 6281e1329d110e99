"""Benchmarks behind `nas bench`, one a file; each returns what it measured as a mapping."""
