"""JSON and merge patches, applied to a private copy of an object.

Strategic merge and apply have modules of their own; this one picks by content type and words the refusals
(apiserver `pkg/endpoints/handlers/patch.go`).
"""

from enum import StrEnum
from typing import Any

import jsonpatch
import jsonpointer

from torpor.embedded.apiserver.builtin import Kind
from torpor.embedded.apiserver.errors import StatusError, bad_request, unsupported_media_type
from torpor.embedded.apiserver.strategic import strategic_merge

__all__ = ["How", "accepted", "how_of", "merge", "patched"]

Obj = dict[str, Any]

JSON_PATCH_OPERATIONS = 10_000
"""Operations of one JSON patch; upstream's limit."""


class How(StrEnum):
    """Kinds of patches, by their media type."""

    JSON = "application/json-patch+json"
    MERGE = "application/merge-patch+json"
    STRATEGIC = "application/strategic-merge-patch+json"
    APPLY = "application/apply-patch+yaml"


def accepted(kind: Kind) -> list[How]:
    """Patches that objects of a kind take: custom kinds have no Go types to be strategic about."""
    return [how for how in How if not (kind.custom and how is How.STRATEGIC)]


def how_of(kind: Kind, media_type: str) -> How:
    """The kind of patch a body is.

    Raises:
        StatusError: 415; kubectl explains a refused strategic patch by it.
    """
    try:
        how = How(media_type)
    except ValueError:
        raise unsupported_media_type(accepted(kind)) from None
    if how not in accepted(kind):
        raise unsupported_media_type(accepted(kind))
    return how


def patched(kind: Kind, how: How, obj: Obj, patch: Any) -> Obj:
    """`obj`, a private copy, with a patch applied; APPLY is not done here.

    Raises:
        StatusError: the patch is malformed (400) or does not fit the object (422).
    """
    if how is How.JSON:
        return _json_patched(obj, patch)
    if not isinstance(patch, dict):
        raise bad_request("the patch must be a JSON object")
    if how is How.MERGE:
        merged: Obj = merge(obj, patch)
        return merged
    try:
        return strategic_merge(obj, patch, kind)
    except ValueError as error:
        raise bad_request(str(error)) from error


def merge(target: Any, patch: Any) -> Any:
    """RFC 7396: `target`, changed in place where it is an object, with `patch` merged in; null removes."""
    if not isinstance(patch, dict):
        return patch
    if not isinstance(target, dict):
        target = {}
    for key, value in patch.items():
        if value is None:
            target.pop(key, None)
        else:
            target[key] = merge(target.get(key), value)
    return target


def _json_patched(obj: Obj, patch: Any) -> Obj:
    if not isinstance(patch, list) or not all(isinstance(one, dict) for one in patch):
        raise bad_request("error decoding patch: a JSON patch is a list of operations")
    if len(patch) > JSON_PATCH_OPERATIONS:
        text = f"The allowed maximum operations in a JSON patch is {JSON_PATCH_OPERATIONS}, got {len(patch)}"
        raise StatusError(413, "RequestEntityTooLarge", text)
    try:
        made = jsonpatch.apply_patch(obj, patch, in_place=True)
    except (jsonpatch.JsonPatchConflict, jsonpatch.JsonPatchTestFailed, jsonpointer.JsonPointerException) as error:
        raise StatusError(
            422,
            "Invalid",
            "the server rejected our request due to an error in our request",
            {"causes": [{"reason": "UnexpectedServerResponse", "message": str(error)}]},
        ) from error
    except jsonpatch.InvalidJsonPatch as error:
        raise bad_request(f"error decoding patch: {error}") from error
    except (TypeError, IndexError, KeyError) as error:  # what the library lets through for paths that do not fit
        raise bad_request(f"the patch does not fit the object: {error}") from error
    if not isinstance(made, dict):
        raise bad_request("the patch leaves no object")
    return made
