"""Volumes as directories, and where containers see them.

A pod's volumes live below `<pod directory>/volumes/<name>`. ConfigMaps, Secrets, downward API and projections are
written the way the kubelet does: into a fresh directory `..<time>`, which the link `..data` is then pointed at in one
step, while `<key>` links to `..data/<key>`. So a reader sees all files of one version, and an update can follow.

`mounts` says what each container is to see where (`mounts.py` of this package puts it there), and `link` makes the same
files reachable below `TORPOR_MOUNT_ROOT` for machines where mounting is not permitted.
"""

import base64
import itertools
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from kncore.api.meta import Obj, at
from kncore.errors import KnError
from torpor.embedded.node.environment import ConfigMissing, Facts, References, expand, field_value, resource_value
from torpor.embedded.node.protocol import Mount

__all__ = ["File", "UnsupportedVolume", "files_of", "follows", "link", "mounts", "write_files"]


class UnsupportedVolume(KnError):
    """A volume type that a machine without a container engine does not have."""


@dataclass(frozen=True, kw_only=True)
class File:
    """One file of a volume."""

    path: str
    """Relative to the volume."""
    content: bytes
    mode: int


Token = Callable[[str, int], str]
"""(audience, seconds) -> a service account token."""

_WRITTEN = ("configMap", "secret", "downwardAPI", "projected")
_counter = itertools.count()


def follows(volume: Obj) -> bool:
    """Whether the volume's content comes from objects, and so has to follow their changes."""
    return any(kind in volume for kind in _WRITTEN)


def files_of(volume: Obj, pod: Obj, facts: Facts, references: References, token: Token) -> list[File]:
    """The files of a volume whose content comes from objects.

    Raises:
        ConfigMissing: a source that is not optional does not exist.
    """
    if "projected" in volume:
        projected = volume["projected"] or {}
        mode = projected.get("defaultMode", 0o644)
        found = itertools.chain.from_iterable(
            _source(source, pod, facts, references, token, mode) for source in projected.get("sources") or ()
        )
        return list({file.path: file for file in found}.values())
    return list(_source(volume, pod, facts, references, token, None))


def _source(
    source: Obj, pod: Obj, facts: Facts, references: References, token: Token, mode: int | None
) -> Iterator[File]:
    if spec := source.get("configMap"):
        name = spec.get("name", "")
        found = references.config_map(name)
        data = {key: value.encode() for key, value in ((found or {}).get("data") or {}).items()}
        data |= {key: base64.b64decode(value) for key, value in ((found or {}).get("binaryData") or {}).items()}
        yield from _keyed(spec, data, f'configmap "{name}"', exists=found is not None, mode=mode)
    elif spec := source.get("secret"):
        name = spec.get("secretName") or spec.get("name", "")
        found = references.secret(name)
        data = {key: base64.b64decode(value) for key, value in ((found or {}).get("data") or {}).items()}
        yield from _keyed(spec, data, f'secret "{name}"', exists=found is not None, mode=mode)
    elif spec := source.get("downwardAPI"):
        for item in spec.get("items") or ():
            if reference := item.get("fieldRef"):
                text = field_value(pod, reference["fieldPath"], facts)
            else:
                text = resource_value(pod, {}, item.get("resourceFieldRef") or {}, facts)
            yield File(path=item["path"], content=text.encode(), mode=_mode(item, spec, mode))
    elif spec := source.get("serviceAccountToken"):
        text = token(spec.get("audience") or "", int(spec.get("expirationSeconds") or 3600))
        yield File(path=spec["path"], content=text.encode(), mode=_mode({}, spec, mode if mode else 0o600))


def _keyed(spec: Obj, data: Mapping[str, bytes], what: str, *, exists: bool, mode: int | None) -> Iterator[File]:
    if not exists and not spec.get("optional"):
        raise ConfigMissing(f"{what} not found")
    if not spec.get("items"):
        for key, content in data.items():
            yield File(path=key, content=content, mode=_mode({}, spec, mode))
        return
    for item in spec["items"]:
        if item["key"] in data:
            yield File(path=item["path"], content=data[item["key"]], mode=_mode(item, spec, mode))
        elif not spec.get("optional"):
            raise ConfigMissing(f"{what} references non-existent config key: {item['key']}")


def _mode(item: Obj, spec: Obj, inherited: int | None) -> int:
    for mode in (item.get("mode"), spec.get("defaultMode"), inherited):
        if mode is not None:
            return int(mode)
    return 0o644


def write_files(directory: Path, files: Sequence[File]) -> bool:
    """Make the directory hold exactly these files, in one step for whoever reads `..data`; False if it did already.

    Raises:
        OSError: the disk is full, or a path leads out of the volume.
    """
    directory.mkdir(parents=True, exist_ok=True)
    current = directory / "..data"
    wanted = {file.path: file for file in files}
    for path in wanted:
        if path.startswith("/") or ".." in Path(path).parts:
            raise OSError(0, f"path {path!r} leads out of the volume")
    if _same(current, wanted):
        return False
    fresh = directory / f"..{os.getpid()}-{next(_counter)}"
    old = Path(os.readlink(current)).name if current.is_symlink() else ""
    for file in files:
        place = fresh / file.path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(file.content)
        place.chmod(file.mode)
    fresh.mkdir(parents=True, exist_ok=True)
    staged = directory / "..data_tmp"
    with suppress(FileNotFoundError):
        staged.unlink()
    staged.symlink_to(fresh.name)
    staged.replace(current)
    tops = {Path(path).parts[0] for path in wanted}
    for entry in directory.iterdir():
        if entry.is_symlink() and not entry.name.startswith("..") and entry.name not in tops:
            entry.unlink()
    for top in tops:
        if not (directory / top).is_symlink():
            (directory / top).symlink_to(Path("..data", top))
    if old and old != fresh.name:
        shutil.rmtree(directory / old, ignore_errors=True)
    return True


def _same(current: Path, wanted: Mapping[str, File]) -> bool:
    if not current.is_dir():
        return False
    present = {str(path.relative_to(current)): path for path in current.rglob("*") if path.is_file()}
    return present.keys() == wanted.keys() and all(
        path.read_bytes() == wanted[name].content and path.stat().st_mode & 0o777 == wanted[name].mode
        for name, path in present.items()
    )


def mounts(container: Obj, pod: Obj, volumes: Path, variables: Mapping[str, str]) -> list[Mount]:
    """What the container is to see where; directories of emptyDirs and sub-paths are made.

    Args:
        volumes: the pod's directory of volumes.
        variables: the container's environment, for `subPathExpr`.
    Raises:
        UnsupportedVolume: a volume of a type that is not available here.
        OSError: a directory cannot be made.
    """
    specs = {volume["name"]: volume for volume in at(pod, "spec", "volumes", default=[])}
    made = []
    for mount in container.get("volumeMounts") or ():
        volume = specs.get(mount["name"], {})
        source = _place(volume, volumes / mount["name"])
        sub_path = mount.get("subPath") or expand(mount.get("subPathExpr") or "", variables)
        if sub_path:
            if sub_path.startswith("/") or ".." in Path(sub_path).parts:
                raise UnsupportedVolume(f"subPath {sub_path!r} must stay inside volume {mount['name']}")
            source = source / sub_path
            if not source.exists():
                source.mkdir(parents=True, exist_ok=True)
        read_only = bool(mount.get("readOnly")) or any(kind in volume for kind in ("configMap", "secret", "projected"))
        made.append(Mount(source=str(source), target=mount["mountPath"], read_only=read_only))
    return made


def _place(volume: Obj, directory: Path) -> Path:
    if "hostPath" in volume:
        path = Path(volume["hostPath"]["path"])
        if (volume["hostPath"].get("type") or "") in ("DirectoryOrCreate",):
            path.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            raise UnsupportedVolume(f'hostPath volume "{volume["name"]}": {path} does not exist on this machine')
        return path
    if "emptyDir" in volume or follows(volume):
        directory.mkdir(parents=True, exist_ok=True)
        return directory
    kind = next((key for key in volume if key != "name"), "nothing")
    raise UnsupportedVolume(
        f'volume "{volume.get("name", "?")}" is of type {kind}, which needs a cluster; '
        "here there are emptyDir, configMap, secret, downwardAPI, projected and hostPath"
    )


def link(root: Path, made: Sequence[Mount]) -> None:
    """Make every mount reachable as `root/<mountPath>` too.

    Raises:
        OSError: a link cannot be made.
    """
    for mount in sorted(made, key=lambda one: one.target):
        place = root / mount.target.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        if place.is_symlink():
            place.unlink()
        if not place.exists():
            place.symlink_to(mount.source)
