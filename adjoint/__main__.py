"""`python -m adjoint` is the command `adjoint`."""

from .cli import main

main()
