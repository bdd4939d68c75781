"""`python -m flows` is the command `noduleflow`."""

from flows.cli import main

main()
