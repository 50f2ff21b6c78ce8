"""What the API server refuses, worded as Kubernetes words it.

Clients parse these: kubectl prints `message` after `Error from server (<reason>)`, client-go switches on `reason`, and
controllers look at `details`. So there is one exception, `StatusError`, that is a `Status` object in waiting, and one
function per kind of refusal that knows its code, reason and text (apimachinery `pkg/api/errors/errors.go`).
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kncore.errors import KnError
from torpor.embedded.apiserver.schema import Cause, summary

if TYPE_CHECKING:
    from torpor.embedded.apiserver.builtin import Kind

__all__ = [
    "StatusError",
    "already_exists",
    "bad_request",
    "conflict",
    "expired",
    "forbidden",
    "generic_not_found",
    "internal",
    "invalid",
    "method_not_allowed",
    "not_acceptable",
    "not_found",
    "storage_failed",
    "too_large",
    "too_large_version",
    "too_many",
    "unauthorized",
    "unsupported_media_type",
]

Obj = dict[str, Any]


@dataclass
class StatusError(KnError):
    """A request that is answered with a `Status` of failure."""

    code: int
    """HTTP status."""
    reason: str
    """Machine-readable CamelCase reason; empty when Kubernetes gives none."""
    message: str
    details: Obj = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__(self.message)

    def __str__(self) -> str:
        return self.message

    def status(self) -> Obj:
        """The `Status` object for the response body or a watch's ERROR event."""
        made: Obj = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
        }
        if self.reason:
            made["reason"] = self.reason
        if self.details:
            made["details"] = self.details
        made["code"] = self.code
        return made


def _details(kind: "Kind", name: str, *, as_kind: bool = False) -> Obj:
    """Upstream names the resource here in most errors and the kind in `Invalid` only."""
    made: Obj = {"name": name} if name else {}
    if kind.group:
        made["group"] = kind.group
    made["kind"] = kind.kind if as_kind else kind.plural
    return made


def _resource(kind: "Kind") -> str:
    return f"{kind.plural}.{kind.group}" if kind.group else kind.plural


def not_found(kind: "Kind", name: str) -> StatusError:
    """404: no object of this name."""
    return StatusError(404, "NotFound", f'{_resource(kind)} "{name}" not found', _details(kind, name))


def generic_not_found() -> StatusError:
    """404: no such resource type, subresource or path."""
    text = "the server could not find the requested resource"
    return StatusError(404, "NotFound", text, {"causes": [{"reason": "UnexpectedServerResponse", "message": text}]})


def already_exists(kind: "Kind", name: str) -> StatusError:
    """409: the name is taken."""
    return StatusError(409, "AlreadyExists", f'{_resource(kind)} "{name}" already exists', _details(kind, name))


def conflict(kind: "Kind", name: str, why: str = "") -> StatusError:
    """409: the object is not the one that the caller has read."""
    why = why or ("the object has been modified; please apply your changes to the latest version and try again")
    text = f'Operation cannot be fulfilled on {_resource(kind)} "{name}": {why}'
    return StatusError(409, "Conflict", text, _details(kind, name))


def forbidden(kind: "Kind", name: str, why: str, causes: Iterable[Cause] = ()) -> StatusError:
    """403: the object's life cycle does not allow it."""
    subject = f'{_resource(kind)} "{name}"' if name else _resource(kind)
    details = _details(kind, name)
    if listed := [_cause(one) for one in causes]:
        details["causes"] = listed
    return StatusError(403, "Forbidden", f"{subject} is forbidden: {why}", details)


def invalid(kind: "Kind | None", name: str, faults: Iterable[Cause]) -> StatusError:
    """422: the object is understood but wrong; every fault is one cause. Without a kind, the patch itself is wrong."""
    listed = list(faults)
    subject = "" if kind is None else (f"{kind.kind}.{kind.group}" if kind.group else kind.kind)
    details = {} if kind is None else _details(kind, name, as_kind=True)
    details["causes"] = [_cause(one) for one in listed]
    text = f'{subject} "{name}" is invalid: {summary(listed)}' if listed else f'{subject} "{name}" is invalid'
    return StatusError(422, "Invalid", text, details)


def _cause(fault: Cause) -> Obj:
    made = {"reason": fault.reason, "message": fault.message}
    if fault.field:
        made["field"] = fault.field
    return made


def bad_request(why: str) -> StatusError:
    """400: the request cannot be understood, or admission refused it."""
    return StatusError(400, "BadRequest", why)


def unauthorized() -> StatusError:
    """401: no token, or not one of ours."""
    return StatusError(401, "Unauthorized", "Unauthorized")


def method_not_allowed(kind: "Kind | None" = None) -> StatusError:
    """405: this resource does not have the verb."""
    details = {} if kind is None else _details(kind, "")
    return StatusError(
        405, "MethodNotAllowed", "the server does not allow this method on the requested resource", details
    )


def not_acceptable(accepted: Iterable[str]) -> StatusError:
    """406: the client takes none of the forms we can answer in."""
    text = f"only the following media types are accepted: {', '.join(accepted)}"
    return StatusError(406, "NotAcceptable", text)


def unsupported_media_type(accepted: Iterable[str]) -> StatusError:
    """415: we do not read this form of body here; kubectl explains a refused strategic patch from this."""
    text = f"the body of the request was in an unknown format - accepted media types include: {', '.join(accepted)}"
    return StatusError(415, "UnsupportedMediaType", text)


def too_large(limit_bytes: int) -> StatusError:
    """413: the body is over the limit."""
    return StatusError(413, "RequestEntityTooLarge", f"Request entity too large: limit is {limit_bytes}")


def too_many(what: str, seconds: int = 1) -> StatusError:
    """429: a bounded thing is full; the client may try again."""
    return StatusError(429, "TooManyRequests", what, {"retryAfterSeconds": seconds})


def expired(why: str) -> StatusError:
    """410: the history asked for is gone; the client lists again."""
    return StatusError(410, "Expired", why)


def too_large_version(asked: int, current: int) -> StatusError:
    """504: the client has seen a version that this server has not reached (its state was lost or replaced)."""
    cause = {"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}
    details = {"causes": [cause], "retryAfterSeconds": 1}
    text = f"Timeout: Too large resource version: {asked}, current: {current}"
    return StatusError(504, "Timeout", text, details)


def storage_failed(why: str, *, full: bool) -> StatusError:
    """507 when the disk is full, else 500: nothing was changed, neither on disk nor in memory."""
    if full:
        return StatusError(507, "InsufficientStorage", f"the state could not be written, nothing was changed: {why}")
    return internal(f"the state could not be written, nothing was changed: {why}")


def internal(why: str) -> StatusError:
    """500: our fault."""
    cause = {"message": why}
    return StatusError(500, "InternalError", f"Internal error occurred: {why}", {"causes": [cause]})
