"""Lets the parity modules import one another, in a test session as from the command line."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
