"""Probes: exactly one handler, a port that exists, and timings that make sense."""

from typing import Final

from kncore.api.fielderror import (
    OK,
    FieldError,
    disallowed,
    generic,
    invalid_value,
    missing_one_of,
    multiple_one_of,
    out_of_bounds,
)
from kncore.api.meta import Obj
from kncore.strconv import INT32_MAX

__all__ = ["no_probe", "probe", "readiness_probe"]

_HANDLERS: Final = ("httpGet", "tcpSocket", "exec", "grpc")


def probe(value: Obj | None, port_name: str | None) -> FieldError:
    """Any probe. `port_name` is the serving port's name in the container that has it, None in a sidecar.

    In the serving container a probe may leave the port out; a sidecar has no port that could be meant.
    """
    if value is None:
        return OK
    wrong = OK
    found = [handler for handler in _HANDLERS if handler in value]
    for handler in found:
        # Each handler goes around all errors so far, those of another handler too; clients know the odd paths.
        wrong = wrong.via(handler)
        if handler in {"httpGet", "tcpSocket"}:
            wrong += _port(value[handler]["port"], port_name, f"{handler}.port")
    if not found:
        return wrong + missing_one_of(*_HANDLERS)
    if len(found) > 1:
        # The original calls one handler by its Go name here.
        return wrong + multiple_one_of(*("gRPC" if handler == "grpc" else handler for handler in found))
    return wrong


def _port(port: int | str, port_name: str | None, field: str) -> FieldError:
    if port_name is None:
        return OK if port else invalid_value(port, field, "Probe port must be specified")
    if isinstance(port, str) and port and port != port_name:
        return invalid_value(port, field, "Probe port must match container port")
    return OK


def readiness_probe(value: Obj | None, port_name: str | None) -> FieldError:
    """A readiness probe. A period of zero asks for aggressive probing (serving §6.6), which has no other timing."""
    if value is None:
        return OK
    wrong = probe(value, port_name)
    period = value.get("periodSeconds", 0)
    failures, timeout = value.get("failureThreshold", 0), value.get("timeoutSeconds", 0)
    if period < 0:
        wrong += out_of_bounds(period, 0, INT32_MAX, "periodSeconds")
    if (delay := value.get("initialDelaySeconds", 0)) < 0:
        wrong += out_of_bounds(delay, 0, INT32_MAX, "initialDelaySeconds")
    if (successes := value.get("successThreshold", 0)) < 1:
        wrong += out_of_bounds(successes, 1, INT32_MAX, "successThreshold")
    for field, given in (("failureThreshold", failures), ("timeoutSeconds", timeout)):
        if period == 0 and given != 0:
            wrong += generic(f"{field} is disallowed when periodSeconds is zero", field)
        elif period != 0 and given < 1:
            wrong += out_of_bounds(given, 1, INT32_MAX, field)
    return wrong


def no_probe(value: Obj | None) -> FieldError:
    """A probe where none may be: each field that is set is refused, the handler as the probe itself."""
    if not value:
        return OK
    return disallowed(*sorted({"" if field in _HANDLERS else field for field in value}))
