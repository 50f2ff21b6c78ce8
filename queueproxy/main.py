"""Start a queue-proxy from an environment; also what a forked copy of the warm template process runs.

Importing this module loads everything a queue-proxy needs and starts nothing.
"""

import sys
from collections.abc import Mapping

from kncore import runtime
from kncore.errors import ConfigError
from kncore.telemetry import logs
from queueproxy import app
from queueproxy.config import Config

__all__ = ["run"]


def run(environ: Mapping[str, str]) -> int:
    """Serve until SIGTERM and drain; returns the exit status."""
    try:
        config = Config.parse(environ)
        logs.configure("queueproxy", config.logging_level)
        runtime.run(lambda: app.serve(config))
    except ConfigError as exc:
        print(exc, file=sys.stderr)  # noqa: T201  # logging may not be set up, and this is all there is to say
        return 1
    return 0
