"""``python -m canfar_batch``."""

import sys

from canfar_batch.cli import main

if __name__ == "__main__":
    sys.exit(main())
