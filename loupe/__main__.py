"""Run the command line: `python -m loupe`."""

from loupe.cli.main import main

main()
