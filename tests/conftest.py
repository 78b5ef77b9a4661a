"""What many tests need: a real nats-server, and the log in both of its forms."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
