"""`python -m cdm.cli` is `cdm`."""

import sys

from cdm.cli import main

sys.exit(main())
