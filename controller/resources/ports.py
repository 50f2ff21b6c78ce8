"""Port numbers every pod of a revision has, fixed by the wire contract (serving §6.1)."""

from typing import Final

__all__ = [
    "PROFILING_PORT",
    "QUEUE_ADMIN_PORT",
    "QUEUE_H2C_PORT",
    "QUEUE_HTTP_PORT",
    "QUEUE_METRICS_PORT",
    "QUEUE_TLS_PORT",
    "USER_DEFAULT_PORT",
    "USER_METRICS_PORT",
    "USER_PORT_NAME",
]

QUEUE_HTTP_PORT: Final = 8012
QUEUE_H2C_PORT: Final = 8013
QUEUE_TLS_PORT: Final = 8112
QUEUE_ADMIN_PORT: Final = 8022
QUEUE_METRICS_PORT: Final = 9090
USER_METRICS_PORT: Final = 9091
PROFILING_PORT: Final = 8008
USER_DEFAULT_PORT: Final = 8080
USER_PORT_NAME: Final = "user-port"
