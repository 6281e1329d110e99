"""The command line: `nas search`, `nas resume`, `nas export`, ...; one file a group of commands."""
