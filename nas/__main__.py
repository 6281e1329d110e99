"""`python -m nas` is the command line."""

from nas.cli.main import main

main()
