"""`python -m queueproxy`: one sidecar, configured by its environment."""

import os
import sys

from queueproxy.main import run

if __name__ == "__main__":
    sys.exit(run(os.environ))
