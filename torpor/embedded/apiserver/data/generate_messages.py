"""Makes `messages.tsv`: the numbers, names and types of protobuf fields, for the kinds the server reads as protobuf.

    python torpor/embedded/apiserver/data/generate_messages.py PATH/k8s.io/api PATH/k8s.io/apimachinery

The arguments are source trees of those two Go modules. Their types carry everything in struct tags: the field number,
the JSON name, and (by being a pointer or not) whether an absent value differs from zero, which the .proto files lack.

Fields that `definitions.jsonl` does not know, being newer, are left out.

A line is `message<TAB>field field ...`; a field is `number:name:type`, its type spelled as follows.
    s i f o y       string, integer, double, boolean, bytes; any other word is a message
    []T {}T         repeated; map from strings
    T?              zero stays zero; without it a zero is an absence, as in Go's JSON
    T<              the message's fields belong to the parent (an embedded struct)
A field named `=` is all there is to its message: a named list, which JSON writes as just the list.
"""

import json
import re
import sys
from pathlib import Path

OUT = Path(__file__).parent / "messages.tsv"

PACKAGES = {
    "io.k8s.api.core.v1": ("api", "core/v1"),
    "io.k8s.api.apps.v1": ("api", "apps/v1"),
    "io.k8s.api.batch.v1": ("api", "batch/v1"),
    "io.k8s.api.autoscaling.v1": ("api", "autoscaling/v1"),
    "io.k8s.api.autoscaling.v2": ("api", "autoscaling/v2"),
    "io.k8s.api.coordination.v1": ("api", "coordination/v1"),
    "io.k8s.api.discovery.v1": ("api", "discovery/v1"),
    "io.k8s.api.events.v1": ("api", "events/v1"),
    "io.k8s.api.networking.v1": ("api", "networking/v1"),
    "io.k8s.api.policy.v1": ("api", "policy/v1"),
    "io.k8s.api.rbac.v1": ("api", "rbac/v1"),
    "io.k8s.api.storage.v1": ("api", "storage/v1"),
    "io.k8s.api.authentication.v1": ("api", "authentication/v1"),
    "io.k8s.api.authorization.v1": ("api", "authorization/v1"),
    "io.k8s.apimachinery.pkg.apis.meta.v1": ("apimachinery", "pkg/apis/meta/v1"),
}

ROOTS = {
    "io.k8s.api.core.v1": "Namespace Pod Service Endpoints ConfigMap Secret ServiceAccount Event Node "
    "PersistentVolumeClaim ResourceQuota LimitRange",
    "io.k8s.api.apps.v1": "Deployment ReplicaSet StatefulSet DaemonSet",
    "io.k8s.api.batch.v1": "Job CronJob",
    "io.k8s.api.autoscaling.v1": "Scale",
    "io.k8s.api.autoscaling.v2": "HorizontalPodAutoscaler",
    "io.k8s.api.coordination.v1": "Lease",
    "io.k8s.api.discovery.v1": "EndpointSlice",
    "io.k8s.api.networking.v1": "Ingress NetworkPolicy",
    "io.k8s.api.policy.v1": "PodDisruptionBudget Eviction",
    "io.k8s.api.rbac.v1": "Role RoleBinding ClusterRole ClusterRoleBinding",
    "io.k8s.api.authentication.v1": "SelfSubjectReview TokenRequest",
    "io.k8s.api.authorization.v1": "SelfSubjectAccessReview SelfSubjectRulesReview",
    "io.k8s.apimachinery.pkg.apis.meta.v1": "DeleteOptions",
}

KNOWN = {
    name: json.loads(schema).get("properties", {}).keys()
    for name, schema in (
        line.split("\t") for line in (OUT.parent / "definitions.jsonl").read_text("utf-8").splitlines()
    )
}

SCALARS = {"string": "s", "bool": "o", "float64": "f", "[]byte": "y"} | dict.fromkeys(
    ("int", "int32", "int64", "uint32", "uint64"), "i"
)
META = "io.k8s.apimachinery.pkg.apis.meta.v1"
FOREIGN = {
    "resource.Quantity": "Quantity",
    "intstr.IntOrString": "IntOrString",
    "runtime.RawExtension": "RawExtension",
    "types.UID": "s",
    "types.NodeName": "s",
}
SPECIAL = {f"{META}.Time": "Time", f"{META}.MicroTime": "MicroTime", f"{META}.FieldsV1": "FieldsV1"}


class Go:
    """The type declarations of the packages."""

    def __init__(self, trees: dict[str, Path]) -> None:
        self.structs: dict[str, list[tuple[str, str]]] = {}
        self.aliases: dict[str, str] = {}
        for package, (module, folder) in PACKAGES.items():
            for source in [*sorted((trees[module] / folder).glob("*types*.go")), trees[module] / folder / "time.go"]:
                if source.exists():
                    self._read(package, source.read_text(encoding="utf-8"))

    def _read(self, package: str, text: str) -> None:
        text = re.sub(r"//[^\n]*", "", text)
        for found in re.finditer(r"^type (\w+) struct \{\n(.*?)^\}", text, re.MULTILINE | re.DOTALL):
            lines = re.findall(r"^\s*(.+?)\s+`(.*)`\s*$", found[2], re.MULTILINE)
            self.structs[f"{package}.{found[1]}"] = [(declared.split()[-1], tag) for declared, tag in lines]
        for found in re.finditer(r"^type (\w+) ((?:\[\]|map\[)?[\w\].]+)$", text, re.MULTILINE):
            self.aliases[f"{package}.{found[1]}"] = found[2]

    def full(self, package: str, name: str) -> str:
        """The whole name of a type as written inside a package."""
        if name.startswith("metav1."):
            return f"{META}.{name[7:]}"
        if name.startswith(("v1.", "corev1.")):
            return f"io.k8s.api.core.v1.{name.partition('.')[2]}"
        return f"{package}.{name}"

    def spell(self, package: str, declared: str) -> str:
        """A Go type in the table's words."""
        if declared in SCALARS:
            return SCALARS[declared]
        if declared in FOREIGN:
            return FOREIGN[declared]
        if declared.startswith("[]"):
            return "[]" + self.spell(package, declared[2:].lstrip("*"))
        if mapped := re.fullmatch(r"map\[[\w.]+\](.+)", declared):
            return "{}" + self.spell(package, mapped[1])
        name = self.full(package, declared)
        if name in SPECIAL:
            return SPECIAL[name]
        if name in self.structs:
            return name
        if (alias := self.aliases.get(name)) is None:
            raise SystemExit(f"no type {declared} in {package}")
        home = name.rpartition(".")[0]
        if alias.startswith("[]") and alias != "[]byte":
            # on the wire a named slice is a message of its own, whose only field is the items
            self.structs.setdefault(name, [(alias, 'json:"=,omitempty" protobuf:"bytes,1,rep,name=items"')])
            return name
        return self.spell(home, alias)

    def fields(self, message: str) -> list[tuple[str, str, str]]:
        """Number, JSON name and type of each field."""
        package = message.rpartition(".")[0]
        known = KNOWN.get(message)
        made = []
        for declared, tag in self.structs[message]:
            wire = re.search(r'protobuf:"\w+,(\d+),', tag)
            if wire is None:
                continue
            named = re.search(r'json:"([^"]*)"', tag)
            name, *options = (named[1] if named else "").split(",")
            if name not in ("", "=") and known is not None and name not in known:
                continue
            spelled = self.spell(package, declared.lstrip("*"))
            if not name or "inline" in options:
                spelled += "<"
            elif declared.startswith("*") or "omitempty" not in options:
                spelled += "?"
            made.append((wire[1], name, spelled))
        return made


def main() -> None:
    api, machinery = map(Path, sys.argv[1:3])
    go = Go({"api": api, "apimachinery": machinery})
    waiting = [f"{package}.{kind}" for package, kinds in ROOTS.items() for kind in kinds.split()]
    lines: dict[str, str] = {}
    while waiting:
        message = waiting.pop()
        if message in lines:
            continue
        fields = go.fields(message)
        lines[message] = " ".join(":".join(field) for field in fields)
        for _, _, spelled in fields:
            name = re.sub(r"^(\[\]|\{\})|[?<]$", "", spelled)
            if "." in name:
                waiting.append(name)
    OUT.write_text("".join(f"{name}\t{fields}\n" for name, fields in sorted(lines.items())), encoding="utf-8")


if __name__ == "__main__":
    main()
