"""What the published clients need before they are imported: credentials (any), and no tracking."""

import os

os.environ.setdefault("BL_API_KEY", "local")
os.environ.setdefault("BL_WORKSPACE", "local")
os.environ.setdefault("DO_NOT_TRACK", "1")
