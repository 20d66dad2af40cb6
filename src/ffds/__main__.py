"""``python -m ffds``: the command line, also under torchrun."""

import sys

from ffds.cli import main

sys.exit(main())
