"""`python -m meshagent`."""

from meshagent.cli.main import main

main()
