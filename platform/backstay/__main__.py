"""`python -m backstay`."""

from backstay.cli import main

main(prog_name="backstay")
