"""Reviews: questions about the caller, answered and not stored. There is one user and it may do anything."""

from typing import Any

from torpor.embedded.apiserver.auth import User

__all__ = ["answer"]

Obj = dict[str, Any]


def answer(review: Obj, user: User) -> Obj:
    """The review with its `status` filled in."""
    made = {**review, "metadata": {"creationTimestamp": None, **review.get("metadata", {})}}
    match review["kind"]:
        case "SelfSubjectReview":
            made["status"] = {"userInfo": {"username": user.name, "groups": list(user.groups)}}
        case "SelfSubjectRulesReview":
            everything = {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}
            made["status"] = {
                "resourceRules": [everything],
                "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
                "incomplete": False,
            }
        case _:
            made["status"] = {"allowed": True, "reason": "the embedded API server allows its user everything"}
    return made
