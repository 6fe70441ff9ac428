"""``python -m edgeward.cli``: how the supervisor starts roles."""

import sys

from edgeward.cli import main

sys.exit(main())
