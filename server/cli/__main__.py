"""`python -m server.cli`: the same as `tallystick`."""

import sys

from server.cli import main

sys.exit(main())
