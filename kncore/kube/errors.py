"""What the API server answered when it did not do what we asked.

Every non-2xx answer, and every `ERROR` event on a watch, becomes one of these; the class says what a caller may do
about it, the attributes carry the server's `Status` (reason, details, causes), so nobody parses message text.
`from_status` picks the class: by reason first, because 409 means both `Conflict` and `AlreadyExists`, then by code.
`to_status` goes back, so that one tree serves clients and the embedded server.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Self

from kncore.api.resources import Resource
from kncore.errors import KnError

__all__ = [
    "AlreadyExists",
    "ApiError",
    "BadRequest",
    "Conflict",
    "Forbidden",
    "Gone",
    "InternalError",
    "Invalid",
    "MethodNotAllowed",
    "NotFound",
    "ServerTimeout",
    "TooLarge",
    "TooManyRequests",
    "Unauthorized",
    "Unavailable",
    "Unreachable",
    "UnsupportedMediaType",
    "from_status",
]


class ApiError(KnError):
    """A request that the API server refused or could not answer.

    Attributes:
        status_code: HTTP status; 500 for an answer that was not understood.
        reason: the machine-readable word of the Status, e.g. `Conflict`.
        details: the Status's `details` (name, group, kind, causes, retryAfterSeconds), empty if there were none.
        retry_after: seconds the server asked us to wait, or None.
    """

    default_code: ClassVar[int] = 500
    default_reason: ClassVar[str] = "InternalError"

    def __init__(
        self,
        message: str,
        *,
        status_code: int | None = None,
        reason: str | None = None,
        details: Mapping[str, Any] | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status_code = self.default_code if status_code is None else status_code
        self.reason = self.default_reason if reason is None else reason
        self.details: dict[str, Any] = dict(details or {})
        self.retry_after = retry_after

    @classmethod
    def about(cls, resource: Resource, name: str, problem: str) -> Self:
        """The error as the API server words it: `revisions.serving.knative.dev "x" <problem>`."""
        return cls(
            f'{resource.group_resource} "{name}" {problem}',
            details={"name": name, "group": resource.group, "kind": resource.plural},
        )

    def to_status(self) -> dict[str, Any]:
        """The `Status` object an API server sends for this error."""
        status: dict[str, Any] = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "code": self.status_code,
        }
        if self.details:
            status["details"] = {key: value for key, value in self.details.items() if value not in ("", None)}
        return status


class BadRequest(ApiError):
    """The request was malformed, or admission refused it; the same request will fail again."""

    default_code = 400
    default_reason = "BadRequest"


class Unauthorized(ApiError):
    """Our credentials are missing, wrong or expired."""

    default_code = 401
    default_reason = "Unauthorized"


class Forbidden(ApiError):
    """Our role does not allow this."""

    default_code = 403
    default_reason = "Forbidden"


class NotFound(ApiError):
    """The object, its namespace, or the resource itself does not exist."""

    default_code = 404
    default_reason = "NotFound"

    @classmethod
    def of(cls, resource: Resource, name: str) -> Self:
        """`<resource> "<name>" not found`."""
        return cls.about(resource, name, "not found")


class MethodNotAllowed(ApiError):
    """The resource exists but does not offer this verb."""

    default_code = 405
    default_reason = "MethodNotAllowed"


class Conflict(ApiError):
    """The object changed since it was read (or a field belongs to another manager): read again and decide anew."""

    default_code = 409
    default_reason = "Conflict"

    @classmethod
    def of(cls, resource: Resource, name: str) -> Self:
        """The optimistic-locking conflict."""
        error = cls.about(resource, name, "")
        error.message = (
            f'Operation cannot be fulfilled on {resource.group_resource} "{name}": the object has been modified; '
            "please apply your changes to the latest version and try again"
        )
        error.args = (error.message,)
        return error


class AlreadyExists(ApiError):
    """An object of this name is there already."""

    default_code = 409
    default_reason = "AlreadyExists"

    @classmethod
    def of(cls, resource: Resource, name: str) -> Self:
        """`<resource> "<name>" already exists`."""
        return cls.about(resource, name, "already exists")


class Gone(ApiError):
    """The resource version is older than the server's history: list again."""

    default_code = 410
    default_reason = "Expired"


class TooLarge(ApiError):
    """The request body is bigger than the server takes."""

    default_code = 413
    default_reason = "RequestEntityTooLarge"


class UnsupportedMediaType(ApiError):
    """The server does not take this kind of patch for this resource."""

    default_code = 415
    default_reason = "UnsupportedMediaType"


class Invalid(ApiError):
    """Validation refused the object; `details["causes"]` names the fields."""

    default_code = 422
    default_reason = "Invalid"


class TooManyRequests(ApiError):
    """The server is shedding load; nothing was done."""

    default_code = 429
    default_reason = "TooManyRequests"


class InternalError(ApiError):
    """The server failed; the request may or may not have been carried out."""


class Unavailable(ApiError):
    """The server, or something in front of it, cannot answer now."""

    default_code = 503
    default_reason = "ServiceUnavailable"


class Unreachable(Unavailable):
    """No answer at all: connection refused, broken or silent; `sent`: the request may have been carried out."""

    def __init__(self, message: str, *, sent: bool = True) -> None:
        super().__init__(message)
        self.sent = sent


class ServerTimeout(ApiError):
    """The server gave up waiting; the request may or may not have been carried out."""

    default_code = 504
    default_reason = "Timeout"


_CLASSES: tuple[type[ApiError], ...] = (
    BadRequest,
    Unauthorized,
    Forbidden,
    NotFound,
    MethodNotAllowed,
    Conflict,
    AlreadyExists,
    Gone,
    TooLarge,
    UnsupportedMediaType,
    Invalid,
    TooManyRequests,
    InternalError,
    Unavailable,
    ServerTimeout,
)
_BY_REASON: dict[str, type[ApiError]] = {cls.default_reason: cls for cls in _CLASSES} | {
    "Gone": Gone,
    "ServerTimeout": ServerTimeout,
}
_BY_CODE: dict[int, type[ApiError]] = {cls.default_code: cls for cls in reversed(_CLASSES)} | {409: Conflict}


def from_status(status: Mapping[str, Any], *, code: int = 500, retry_after: float | None = None) -> ApiError:
    """The typed error for a `Status` object.

    Args:
        status: the answer's body; anything that is not a Status yields an error with a generic message.
        code: HTTP status of the answer, used where the body has none.
        retry_after: the `Retry-After` header in seconds; the body's `retryAfterSeconds` stands in for it.
    """
    number = status.get("code")
    code = number if isinstance(number, int) and number else code
    reason = status.get("reason")
    reason = reason if isinstance(reason, str) else ""
    details = status.get("details")
    details = details if isinstance(details, dict) else {}
    if retry_after is None and isinstance(seconds := details.get("retryAfterSeconds"), int) and seconds > 0:
        retry_after = float(seconds)
    message = status.get("message")
    if not isinstance(message, str) or not message:
        message = f"the API server answered {code} {reason}".rstrip()
    cls = _BY_REASON.get(reason) or _BY_CODE.get(code) or (BadRequest if 400 <= code < 500 else ApiError)
    return cls(message, status_code=code, reason=reason or cls.default_reason, details=details, retry_after=retry_after)
