"""`python -m runsdeploy`."""

import sys

from runsdeploy.cli import main

sys.exit(main())
