"""One stored object in each API version it is served in.

Versions of a custom kind differ only in `apiVersion` (conversion strategy None). The one real conversion is between
`v1` Events and `events.k8s.io/v1` Events, which are two views of the same objects.
"""

from typing import Any

import orjson

from torpor.embedded.apiserver.builtin import Kind
from torpor.embedded.apiserver.store import Record

__all__ = ["data_as", "fresh_as", "obj_as", "stored_form"]

Obj = dict[str, Any]

_EVENTS = "events.k8s.io/v1"

_NEW_NAMES = {
    "involvedObject": "regarding",
    "message": "note",
    "reportingComponent": "reportingController",
    "source": "deprecatedSource",
    "firstTimestamp": "deprecatedFirstTimestamp",
    "lastTimestamp": "deprecatedLastTimestamp",
    "count": "deprecatedCount",
}
"""Fields of a core Event and what events.k8s.io calls them."""
_OLD_NAMES = {new: old for old, new in _NEW_NAMES.items()}


def obj_as(kind: Kind, record: Record) -> Obj:
    """The object in the version of `kind`; shared, not to be changed."""
    obj = record.obj
    return obj if obj["apiVersion"] == kind.api_version else _converted(kind.api_version, obj)


def fresh_as(kind: Kind, record: Record) -> Obj:
    """A private copy of the object in the version of `kind`."""
    obj = record.fresh()
    return obj if obj["apiVersion"] == kind.api_version else _converted(kind.api_version, obj)


def data_as(kind: Kind, record: Record) -> bytes:
    """The object as JSON in the version of `kind`: nearly always the very bytes that are stored."""
    if record.api_version == kind.api_version:
        return record.data
    return orjson.dumps(obj_as(kind, record))


def stored_form(api_version: str, obj: Obj) -> Obj:
    """The object in the version that its collection is stored in; may be `obj` itself."""
    return obj if obj["apiVersion"] == api_version else _converted(api_version, obj)


def _converted(api_version: str, obj: Obj) -> Obj:
    names: dict[str, str] = {}
    if api_version == _EVENTS:
        names = _NEW_NAMES
    elif obj["apiVersion"] == _EVENTS:
        names = _OLD_NAMES
    made = {names.get(key, key): value for key, value in obj.items()}
    made["apiVersion"] = api_version
    if api_version == _EVENTS and not made.get("eventTime"):  # required there, unknown to writers of core Events
        made["eventTime"] = obj.get("lastTimestamp") or obj["metadata"].get("creationTimestamp")
    return made
