"""`python -m patronus_pl`."""

from patronus_pl.cli import main

main()
