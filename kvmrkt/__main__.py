"""`python -m kvmrkt`."""

from kvmrkt.cli.main import main

main()
