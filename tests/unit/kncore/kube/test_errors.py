"""From a Status to a typed error and back."""

import pytest

from kncore.api.resources import KSERVICES, PODS
from kncore.kube import errors
from kncore.kube.errors import AlreadyExists, ApiError, BadRequest, Conflict, Gone, NotFound, from_status


@pytest.mark.parametrize(
    ("code", "reason", "cls"),
    [
        (404, "NotFound", NotFound),
        (409, "AlreadyExists", AlreadyExists),
        (409, "Conflict", Conflict),
        (409, "", Conflict),
        (410, "Expired", Gone),
        (410, "Gone", Gone),
        (422, "Invalid", errors.Invalid),
        (429, "TooManyRequests", errors.TooManyRequests),
        (500, "", errors.InternalError),
        (503, "", errors.Unavailable),
        (504, "Timeout", errors.ServerTimeout),
        (418, "Teapot", BadRequest),
        (502, "", ApiError),
    ],
)
def test_the_class_follows_reason_then_code(code: int, reason: str, cls: type[ApiError]) -> None:
    error = from_status({"kind": "Status", "code": code, "reason": reason, "message": "m"})
    assert type(error) is cls
    assert error.status_code == code
    assert str(error) == "m"


def test_a_status_survives_the_round_trip() -> None:
    error = NotFound.of(KSERVICES, "hello")
    again = from_status(error.to_status())
    assert type(again) is NotFound
    assert again.message == 'services.serving.knative.dev "hello" not found'
    assert again.details == {"name": "hello", "group": "serving.knative.dev", "kind": "services"}


def test_the_wait_that_the_server_asks_for() -> None:
    status = {"code": 429, "details": {"retryAfterSeconds": 3}}
    assert from_status(status).retry_after == 3.0
    assert from_status(status, retry_after=1.0).retry_after == 1.0


def test_an_answer_without_a_status_still_says_something() -> None:
    error = from_status({}, code=502)
    assert error.status_code == 502
    assert "502" in error.message


def test_the_conflict_is_worded_as_the_api_server_words_it() -> None:
    error = Conflict.of(PODS, "a")
    assert str(error) == error.message
    assert str(error).startswith('Operation cannot be fulfilled on pods "a": the object has been modified')
