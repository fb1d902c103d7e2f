"""`python -m runoff`: the `runoff` command."""

import sys

from runoff.cli import main

if __name__ == "__main__":
    sys.exit(main())
