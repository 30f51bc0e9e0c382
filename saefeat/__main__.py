"""`python -m saefeat` is `saefeat`."""

from saefeat.cli import main

main()
