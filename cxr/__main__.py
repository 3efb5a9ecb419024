"""`python -m cxr`, the form that torchrun starts on several nodes."""

from cxr.cli import main

main()
