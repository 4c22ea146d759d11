"""Lets tests import cyclegan_on_devices.py, which is a script too, that Lightning starts again."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
