"""The internal Ingress: what its controller and the proxy that serves it must agree on."""

import hashlib
import json
from typing import Any

from kncore.api import meta

__all__ = ["spec_hash"]


def spec_hash(ingress: dict[str, Any]) -> str:
    """What a proxy answers to a readiness probe once it serves this version of an Ingress.

    Hex SHA-256 over the spec's JSON, namespace and name (serving §7.4); keys are sorted, so the order in which an API
    server returns them does not matter.
    """
    text = json.dumps(ingress.get("spec") or {}, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256((text + meta.namespace(ingress) + meta.name(ingress)).encode()).hexdigest()
