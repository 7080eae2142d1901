"""Entry point of ``python -m lightning_transfer``."""

import sys

from lightning_transfer.cli import main

if __name__ == "__main__":
    sys.exit(main())
