"""Volumes, what they are made of, and where containers mount them (serving §1.5.6)."""

import posixpath
from collections.abc import Collection, Mapping, Sequence
from typing import Final

from kncore.api.fielderror import (
    OK,
    FieldError,
    each,
    generic,
    invalid_value,
    missing,
    missing_one_of,
    multiple_one_of,
)
from kncore.api.meta import Obj
from kncore.api.syntax import dns_1123_label
from kncore.api.validation import masks
from kncore.config.features import Features, Flag
from kncore.quantity import parse_quantity
from kncore.strconv import quote

__all__ = ["mounted_names", "volume_mounts", "volumes", "volumes_by_name"]

_RESERVED: Final = frozenset({"/", "/dev", "/dev/log"})
_PULL_POLICIES: Final = frozenset({"", "IfNotPresent", "Always", "Never"})
_PROPAGATIONS: Final = frozenset({"None", "HostToContainer"})
_WRITABLE: Final = ("emptyDir", "persistentVolumeClaim", "ephemeral")
_PROJECTIONS: Final = ("secret", "configMap", "serviceAccountToken", "downwardAPI")


def mounted_names(containers: Sequence[Obj]) -> set[str]:
    """The names of all volumes that any of the containers mounts."""
    return {mount["name"] for container in containers for mount in container.get("volumeMounts", ())}


def volumes_by_name(given: Sequence[Obj]) -> dict[str, Obj]:
    """The volumes that mounts refer to; of two with one name the later counts."""
    return {volume["name"]: volume for volume in given}


def volumes(given: Sequence[Obj], mounted: Collection[str], features: Features) -> FieldError:
    """All volumes of a pod: unique names, each mounted somewhere, each of one allowed kind."""
    seen: set[str] = set()

    def check(volume: Obj) -> FieldError:
        name, wrong = volume["name"], OK
        if name in seen:
            wrong += generic(f"duplicate volume name {quote(name)}", "name")
        if name not in mounted:
            wrong += generic(f"volume with name {quote(name)} not mounted", "name")
        seen.add(name)
        return wrong + _volume(volume, features)

    return each(given, check)


# In the order in which the original lists them: the kind's flag and how messages call the kind.
_FLAGGED: Final = (
    ("image", "podspec_volumes_image", "Image"),
    ("emptyDir", "podspec_volumes_emptydir", "EmptyDir"),
    ("hostPath", "podspec_volumes_hostpath", "HostPath"),
    ("csi", "podspec_volumes_csi", "CSI"),
    ("ephemeral", "podspec_volumes_ephemeral", "Ephemeral"),
)
_OPEN: Final = ("secret", "configMap", "projected")
_OPENED: Final = (
    ("emptyDir", "podspec_volumes_emptydir"),
    ("persistentVolumeClaim", "podspec_persistent_volume_claim"),
    ("hostPath", "podspec_volumes_hostpath"),
    ("csi", "podspec_volumes_csi"),
    ("ephemeral", "podspec_volumes_ephemeral"),
    ("image", "podspec_volumes_image"),
)


def _volume(volume: Obj, features: Features) -> FieldError:
    name = volume["name"]
    wrong = _claim(volume.get("persistentVolumeClaim"), features)
    for kind, flag, title in _FLAGGED:
        if kind in volume and getattr(features, flag) is not Flag.ENABLED:
            wrong += generic(f"{title} volume support is disabled, but found {title} volume {name}")
    # A bad name hides what was found so far: the original starts anew here (serving §10.5).
    if not name:
        wrong = missing("name")
    elif dns_1123_label(name):
        wrong = invalid_value(name, "name")
    wrong += masks.volume_source(volume, features)
    wrong += _sources(volume)
    known = [kind for kind in (*_OPEN, *(kind for kind, _ in _OPENED)) if kind in volume]
    if not known:
        opened = [kind for kind, flag in _OPENED if getattr(features, flag) is Flag.ENABLED]
        wrong += missing_one_of(*_OPEN, *opened)
    elif len(known) > 1:
        wrong += multiple_one_of(*known)
    return wrong


def _claim(claim: Obj | None, features: Features) -> FieldError:
    if claim is None:
        return OK
    name, wrong = claim["claimName"], OK
    if features.podspec_persistent_volume_claim is not Flag.ENABLED:
        wrong += generic(f"Persistent volume claim support is disabled, but found persistent volume claim {name}")
    if not claim.get("readOnly") and features.podspec_persistent_volume_write is not Flag.ENABLED:
        wrong += generic(
            "Persistent volume write support is disabled, "
            f"but found persistent volume claim {name} that is not read-only"
        )
    return wrong


def _sources(volume: Obj) -> FieldError:
    """The contents of those kinds that have rules."""
    wrong = OK
    for kind in ("secret", "configMap"):
        if kind in volume:
            wrong += _items(volume[kind])
    if "projected" in volume:
        wrong += each(volume["projected"]["sources"] or (), _projection).via("projected")
    if "emptyDir" in volume:
        wrong += _empty_dir(volume["emptyDir"]).via("emptyDir")
    if "image" in volume:
        wrong += _image(volume["image"]).via("image")
    return wrong


def _items(source: Obj) -> FieldError:
    """The keys picked from a ConfigMap or Secret."""
    return each(source.get("items", ()), _item).via("items")


def _item(item: Obj) -> FieldError:
    absent = [field for field in ("key", "path") if not item[field]]
    return missing(*absent) if absent else OK


def _projection(source: Obj) -> FieldError:
    wrong = masks.volume_projection(source)
    for kind in ("secret", "configMap"):
        if kind in source:
            wrong += ((OK if source[kind].get("name") else missing("name")) + _items(source[kind])).via(kind)
    if "serviceAccountToken" in source and not source["serviceAccountToken"]["path"]:
        wrong += missing("path").via("serviceAccountToken")
    if "downwardAPI" in source:
        wrong += each(source["downwardAPI"].get("items", ()), _downward).via("downwardAPI.items")
    found = [kind for kind in _PROJECTIONS if kind in source]
    if not found:
        return wrong + missing_one_of(*_PROJECTIONS)
    return wrong + multiple_one_of(*found) if len(found) > 1 else wrong


def _downward(file: Obj) -> FieldError:
    wrong = OK
    given = [kind for kind in ("resourceFieldRef", "fieldRef") if kind in file]
    if not given:
        wrong += missing_one_of("fieldRef", "resourceFieldRef")
    elif len(given) > 1:
        wrong += generic("Within a single item, cannot set both", *given)
    return wrong if file["path"] else wrong + missing("path")


def _empty_dir(source: Obj) -> FieldError:
    wrong = OK
    if (medium := source.get("medium", "")) not in {"", "Memory"}:
        wrong += invalid_value(medium, "medium")
    if "sizeLimit" in source and parse_quantity(source["sizeLimit"]).value() < 0:
        wrong += invalid_value(source["sizeLimit"], "sizeLimit")
    return wrong


def _image(source: Obj) -> FieldError:
    wrong = OK if source.get("reference") else missing("reference")
    if (policy := source.get("pullPolicy", "")) not in _PULL_POLICIES:
        wrong += invalid_value(policy, "pullPolicy")
    return wrong


def volume_mounts(mounts: Sequence[Obj], by_name: Mapping[str, Obj], features: Features) -> FieldError:
    """The mounts of one container: each of a known volume, at a path of its own, read-only where it must be."""
    taken: set[str] = set()

    def check(mount: Obj) -> FieldError:
        wrong = masks.volume_mount(mount, features)
        if mount["name"] not in by_name:
            wrong += generic("volumeMount has no matching volume", "name")
        wrong += _mount_path(mount["mountPath"], taken)
        taken.add(_cleaned(mount["mountPath"]))
        return wrong + _read_only(mount, by_name.get(mount["name"], {})) + _propagation(mount, features)

    return each(mounts, check)


def _cleaned(path: str) -> str:
    """The shortest spelling of the path, as Go's path.Clean writes it (one leading slash, never two)."""
    cleaned = posixpath.normpath(path)
    return cleaned[1:] if cleaned.startswith("//") else cleaned


def _mount_path(path: str, taken: Collection[str]) -> FieldError:
    cleaned = _cleaned(path)
    if not path:
        return missing("mountPath")
    if cleaned in _RESERVED:
        return generic(f"mountPath {quote(cleaned)} is a reserved path", "mountPath")
    if not path.startswith("/"):
        return invalid_value(path, "mountPath")
    if cleaned in taken:
        return invalid_value(f"{quote(path)} must be unique", "mountPath")
    return OK


def _read_only(mount: Obj, volume: Obj) -> FieldError:
    if mount.get("readOnly"):
        return OK
    wrong = OK
    if not any(kind in volume for kind in _WRITABLE):
        wrong += generic("volume mount should be readOnly for this type of volume", "readOnly")
    if volume.get("persistentVolumeClaim", {}).get("readOnly"):
        wrong += generic("volume is readOnly but volume mount is not", "readOnly")
    return wrong


def _propagation(mount: Obj, features: Features) -> FieldError:
    if "mountPropagation" not in mount:
        return OK
    wrong = OK
    if features.podspec_volumes_mount_propagation is not Flag.ENABLED:
        wrong += generic(
            "Volume Mount Propagation support is disabled, "
            f"but found volume mount {mount['name']} with mount propagation"
        )
    if mount["mountPropagation"] not in _PROPAGATIONS:
        wrong += generic("mount propagation should be set to None or HostToContainer", "mountPropagation")
    return wrong
