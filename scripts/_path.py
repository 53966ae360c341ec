"""Lets the scripts run from a clone without installing: puts the folder above scripts/ on the import path."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
