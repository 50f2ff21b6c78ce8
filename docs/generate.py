"""Write docs/reference from what the program itself says: `python docs/generate.py` (`--check` only compares).

Commands come from the Typer application, ConfigMap keys from what each `parse` of `kncore.config` reads and from the
docstrings of its fields, kinds from the CRD schemas, metrics from the tables that declare them. A test runs this with
`--check`.
"""

import argparse
import ast
import importlib
import inspect
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from typer.models import ArgumentInfo, OptionInfo

import activator.telemetry
import kncore.config.store
import queueproxy.telemetry
from kncore.api import crds
from kncore.config.features import KEYS, Features
from kncore.config.reader import Reader
from kncore.quantity import Quantity, format_duration
from kncore.telemetry.exposition import prometheus_name
from kncore.telemetry.metrics import COUNT_BUCKETS, LATENCY_BUCKETS, WAKE_BUCKETS
from torpor.cli.main import app
from torpor.embedded.seed import config_maps as config_map_seed

__all__ = ["main", "pages"]

REFERENCE = Path(__file__).parent / "reference"
HEAD = "<!-- Written by docs/generate.py; change the source, then run it. -->\n"


def pages() -> dict[str, str]:
    """Every generated page by its file name."""
    return {"cli.md": cli(), "configmaps.md": config_maps(), "kinds.md": kinds(), "metrics.md": metrics()}


# commands


def cli() -> str:
    """All commands with their arguments and options."""
    out = [
        HEAD,
        "# Commands",
        "",
        str(app.info.help),
        "",
        "Results go to standard output, everything else to standard error. Exit codes: 0 done; 1 not done, with the",
        "reason on standard error; 2 wrong command line; 130 interrupted.",
        "",
        "Commands on objects talk to the API server of `$KUBECONFIG`, else of the platform that runs on the default",
        "state directory. `NO_COLOR` turns colour off. Every command takes `--help`.",
        "",
    ]
    for command in app.registered_commands:
        assert command.callback is not None
        name = command.name or command.callback.__name__
        parameters = list(_parameters(command.callback))
        positional = [one for one in parameters if isinstance(one.info, ArgumentInfo)]
        options = [one for one in parameters if isinstance(one.info, OptionInfo)]
        usage = " ".join(["torpor", name, *(["[OPTIONS]"] if options else []), *(one.metavar for one in positional)])
        out += [f"## torpor {name}", "", "```text", usage, "```", "", inspect.getdoc(command.callback) or "", ""]
        if positional:
            out += ["| argument | |", "|---|---|"]
            out += [f"| `{one.metavar}` | {_cell(one.help)} |" for one in positional]
            out.append("")
        if options:
            out += ["| option | | default |", "|---|---|---|"]
            out += [f"| {one.flags} | {_cell(one.help)} | {_cell(one.shown_default)} |" for one in options]
            out.append("")
    return "\n".join(out)


@dataclass(frozen=True)
class _Parameter:
    """One parameter of a command's function, with what Typer is told about it."""

    name: str
    kind: Any
    default: Any
    info: ArgumentInfo | OptionInfo

    @property
    def metavar(self) -> str:
        name = self.name.upper() + ("..." if _repeats(self.kind) else "")
        return name if self.default is inspect.Parameter.empty else f"[{name}]"

    @property
    def flags(self) -> str:
        plain = self.name.replace("_", "-")
        # Within Annotated, the first flag sits where the default would be.
        first = [self.info.default] if isinstance(self.info.default, str) else []
        declared = [*first, *(self.info.param_decls or ())] or [f"--{plain}"]
        if self.kind is bool and declared == [f"--{plain}"]:
            declared.append(f"--no-{plain}")
        return ", ".join(f"`{flag}`" for flag in declared)

    @property
    def help(self) -> str:
        choices = next(
            (one for one in _alternatives(self.kind) if isinstance(one, type) and issubclass(one, Enum)), None
        )
        listed = f" One of {', '.join(f'`{one.value}`' for one in choices)}." if choices else ""
        return f"{self.info.help}{listed}"

    @property
    def shown_default(self) -> str:
        if isinstance(self.info.show_default, str):
            return self.info.show_default
        if self.default in (None, "", False, inspect.Parameter.empty):
            return ""
        return "yes" if self.default is True else f"`{getattr(self.default, 'value', self.default)}`"


def _parameters(function: Callable[..., Any]) -> Iterator[_Parameter]:
    hints = get_type_hints(function, include_extras=True)
    for name, parameter in inspect.signature(function).parameters.items():
        kind, info, *_ = get_args(hints[name])
        if info.help:
            yield _Parameter(name, kind, parameter.default, info)


def _alternatives(kind: Any) -> tuple[Any, ...]:
    """The members of a union; a type that is none alone."""
    return get_args(kind) if isinstance(kind, UnionType) else (kind,)


def _repeats(kind: Any) -> bool:
    return any(get_origin(one) is list for one in _alternatives(kind))


# ConfigMaps


class _Recorder(Reader):
    """A Reader that notes which keys are asked for, as what, and with which default."""

    asked: list[tuple[str, str, Any]]

    def __init__(self, data: Mapping[str, str], **options: Any) -> None:
        super().__init__(data, **options)
        type(self).asked = []

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if name not in _TYPES:
            return found

        def noted(key: str, default: Any, *rest: Any, **more: Any) -> Any:
            type(self).asked.append((key, name, default))
            return found(key, default, *rest, **more)

        return noted


_TYPES = {
    "string": "text",
    "boolean": "true or false",
    "number": "number",
    "int32": "whole number",
    "int64": "whole number",
    "duration": "duration",
    "quantity": "quantity",
    "strings": "list with commas",
}
_FORMS = {
    "retain-since-create-time": "duration or `disabled`",
    "retain-since-last-active-time": "duration or `disabled`",
    "max-non-active-revisions": "whole number or `disabled`",
}
_FIELDS = {
    "container-concurrency-target-percentage": "container_concurrency_target_fraction",
    "container-name-template": "user_container_name_template",
    "logging.enable-var-log-collection": "enable_var_log_collection",
    "logging.revision-url-template": "revision_url_template",
    "logging.enable-request-log": "enable_request_log",
    "logging.request-log-template": "request_log_template",
    "logging.enable-probe-request-log": "enable_probe_request_log",
}
_MORE: dict[str, list[tuple[str, str, str]]] = {
    "config-network": [
        ("external-domain-tls", "Enabled or Disabled", "external_domain_tls"),
        ("cluster-local-domain-tls", "Enabled or Disabled", "cluster_local_domain_tls"),
        ("system-internal-tls", "Enabled or Disabled", "system_internal_tls"),
        ("http-protocol", "text", "http_protocol"),
        ("mesh-compatibility-mode", "text", "mesh_compatibility_mode"),
        ("namespace-wildcard-cert-selector", "YAML", "namespace_wildcard_cert_selector"),
    ],
    "config-deployment": [
        ("runtime-class-name", "YAML", "runtime_class_names"),
        ("default-affinity-type", "text", "default_affinity_type"),
    ],
}
"""Keys that are read without a Reader's method, with their form and field."""
_PAGES = {
    "config-autoscaler": "autoscaler",
    "config-defaults": "defaults",
    "config-deployment": "deployment",
    "config-features": "features",
    "config-gc": "gc",
    "config-network": "network",
}


def config_maps() -> str:
    """The keys of Knative's ConfigMaps, with defaults and meaning."""
    out = [
        HEAD,
        "# ConfigMaps",
        "",
        "They are in the namespace `knative-serving` and have Knative's names, keys and defaults. A change takes",
        "effect at once; one that cannot be read is refused with every bad key, and the last good one stays in force.",
        "",
        "Durations are written as in Go: `90s`, `1m30s`, `1h`. The default is what holds when a key is absent; an",
        "empty cell means that nothing is set then. Keys that belong to what is not built yet (see",
        "[limits](../explanation/limits.md)) are read and checked, and have no effect.",
        "",
        f"`torpor up` creates them with these values: {_embedded()}.",
        "",
        "In `config-domain` each key is a domain, and its value chooses the routes that get it, as YAML: `selector:`",
        "with labels; an empty value makes it the default. `config-observability`, `config-logging` and",
        "`config-leader-election` are as in Knative.",
        "",
    ]
    for name, module_name in _PAGES.items():
        module = importlib.import_module(f"kncore.config.{module_name}")
        kind = kncore.config.store._KINDS[name][1]
        out += [f"## {name}", "", inspect.cleandoc(kind.__doc__ or "").partition(".")[0] + ".", ""]
        out += ["| key | form | default | |", "|---|---|---|---|"]
        for key, form, default, text in _features() if name == "config-features" else _keys(name, module, kind):
            out.append(f"| `{key}` | {form} | {_cell(default)} | {_cell(text)} |")
        out.append("")
    return "\n".join(out)


def _embedded() -> str:
    found = {one["metadata"]["name"]: one["data"] for one in config_map_seed("localhost")}
    return ", ".join(
        f"`{name}`: `{key}: {json.dumps(value)}`" for name, data in found.items() for key, value in data.items()
    )


def _features() -> Iterator[tuple[str, str, str, str]]:
    documented = _field_docs(Features)
    for field, key in KEYS.items():
        text = documented.get(field) or ("Allows this part of a pod's spec." if "spec-" in key else "")
        yield key, "Enabled, Allowed or Disabled", f"`{getattr(Features, field)}`", text


def _keys(name: str, module: Any, kind: Any) -> Iterator[tuple[str, str, str, str]]:
    documented = _field_docs(kind)
    original, module.Reader = module.Reader, _Recorder
    try:
        defaults = kind.parse({"queue-sidecar-image": "needed"})
    finally:
        module.Reader = original
    told: set[str] = set()
    for key, method, _ in _Recorder.asked:
        if key in told or key != key.lower() or (key.partition(".")[2] and key not in _FIELDS):
            continue  # a legacy spelling
        told.add(key)
        field = _FIELDS.get(key, key.replace("-", "_"))
        if hasattr(defaults, field):
            yield (
                key,
                _FORMS.get(key, _TYPES[method]),
                _value(key, method, getattr(defaults, field)),
                documented.get(field, ""),
            )
    for key, form, field in _MORE.get(name, ()):
        yield key, form, _value(key, form, getattr(defaults, field)), documented.get(field, "")


def _value(key: str, method: str, value: Any) -> str:
    if value in (None, "") or isinstance(value, Mapping):
        return ""
    if key == "queue-sidecar-image":
        return "(required)"
    if key.endswith("-percentage") and isinstance(value, float) and value <= 1:
        value = value * 100
    if method == "Enabled or Disabled":
        return "`Enabled`" if value else "`Disabled`"
    if method == "duration" or _FORMS.get(key, "").startswith("duration"):
        return f"`{format_duration(value)}`"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, frozenset):
        return f"`{','.join(sorted(value))}`" if value else ""
    if isinstance(value, float):
        return f"`{value:g}`"
    return f"`{value if not isinstance(value, Quantity) else str(value)}`"


def _field_docs(kind: type) -> dict[str, str]:
    """The text under each field of a dataclass."""
    tree = ast.parse(inspect.cleandoc(inspect.getsource(kind)))
    (definition,) = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    found = {}
    for field, below in zip(definition.body, definition.body[1:], strict=False):
        match (field, below):
            case (ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text)))):
                found[name] = " ".join(text.split())
    return found


# kinds


def kinds() -> str:
    """The kinds of the API: names, columns, fields."""
    out = [
        HEAD,
        "# Kinds",
        "",
        "`kubectl explain KIND --recursive` shows every field. Short names and categories work with `torpor get` and",
        "`kubectl get`; columns are those of both.",
        "",
        "| kind | API version | short names | categories | columns after NAME |",
        "|---|---|---|---|---|",
    ]
    found = sorted(crds.load(), key=lambda crd: (crd["spec"]["group"], crd["spec"]["names"]["kind"]))
    for crd in found:
        spec = crd["spec"]
        for version in spec["versions"]:
            columns = [one["name"] for one in version.get("additionalPrinterColumns", ())]
            cells = (
                f"`{spec['names']['kind']}`",
                f"`{spec['group']}/{version['name']}`",
                ", ".join(f"`{name}`" for name in spec["names"].get("shortNames", ())),
                ", ".join(spec["names"].get("categories", ())),
                ", ".join(columns),
            )
            out.append(f"| {' | '.join(cells)} |")
    for crd in found:
        if crd["spec"]["group"] != "serving.knative.dev":
            continue
        version = crd["spec"]["versions"][-1]
        schema = version["schema"]["openAPIV3Schema"]
        out += ["", f"## {crd['spec']['names']['kind']}", "", _sentence(schema), ""]
        out += ["| field | |", "|---|---|"]
        out += [f"| `{path}` | {_cell(text)} |" for path, text in _described(schema, "", depth=3)]
    return "\n".join([*out, ""])


def _described(schema: Mapping[str, Any], path: str, depth: int) -> Iterator[tuple[str, str]]:
    for name, field in schema.get("properties", {}).items():
        here = f"{path}.{name}".lstrip(".")
        if here in {"apiVersion", "kind", "metadata", "status.annotations", "status.observedGeneration"}:
            continue
        items = field.get("items", {})
        here += "[]" if items else ""
        if text := _sentence(field) or _sentence(items):
            yield here, text
        if depth > 1 and not here.startswith("status."):
            yield from _described(items or field, here, depth - 1)


def _sentence(schema: Mapping[str, Any]) -> str:
    return " ".join(str(schema.get("description", "")).split())


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


# metrics

_TELEMETRY = """# Metrics, traces, request logs, profiles

All of it is off until `config-observability` says otherwise (its keys are in [ConfigMaps](configmaps.md)), and costs a
request nothing while it is. Activators follow the ConfigMap live; queue-proxies are told when their pods are made.

| what | switched on by | where it is |
|---|---|---|
| metrics of the activator | `metrics-protocol: prometheus` | `GET :9090/metrics` (`metrics-endpoint` moves it) |
| | `metrics-protocol: http/protobuf` | pushed to `metrics-endpoint` every `metrics-export-interval` |
| metrics of requests, per pod | `request-metrics-protocol: prometheus` | `GET :9091/metrics` of each queue-proxy |
| | `request-metrics-protocol: http/protobuf` | pushed to `request-metrics-endpoint` |
| traces | `tracing-protocol: http/protobuf`, `tracing-sampling-rate` | pushed to `tracing-endpoint` |
| | `tracing-protocol: stdout` | a line of JSON per span |
| request log | `logging.enable-request-log: "true"` | a line per request on standard output |
| profiles | `runtime-profiling: enabled` | `GET :8008/debug/pprof/profile?seconds=30` |
| time of one request | the request: `Prefer: server-timing` | `Server-Timing` of its answer |

Pushing needs the extra `otlp` (`pip install 'torpor[otlp]'`), and `grpc` also
`opentelemetry-exporter-otlp-proto-grpc`. An endpoint without a path means `/v1/metrics` and `/v1/traces`;
`OTEL_EXPORTER_OTLP_ENDPOINT` goes before the ConfigMap. On one machine (`torpor up`) pods and the activator have
addresses of their own on the loopback network; `kubectl get pods -o wide` shows them.

Names are OpenTelemetry's. Prometheus sees underscores for dots, the unit as a suffix, `_total` behind counters, and
what the process is (`service.name`, `kn.revision.name` ...) in `target_info`. Names that begin with `kn.` are
Knative's, `http.` OpenTelemetry's, `torpor.` our own. Clients cannot fill memory: methods that nobody knows count as
`_OTHER`, and sets of attributes beyond a limit as the tag `kn:overflow`.

`kn.route.tag` is the tag of the route that a request took, or `kn:disabled` where requests say nothing about tags,
`kn:default` for one that a route with tags sent to its default, `kn:undefined` for a tag that the route does not have.
"""

_TELEMETRY_REST = """
## Spans

W3C `traceparent` and `tracestate` are followed; a trace begins here where a request brings none. `baggage` passes
untouched. A caller's decision to sample is kept, except at a rate of 0 (never) and 1 (always). With tracing off, trace
headers pass untouched and none are invented.

| span | by | from, to |
|---|---|---|
| `handle` | activator | a request's head, the end of its answer |
| `throttler_try` | activator | until it had a pod |
| `activator_proxy` | activator | with the pod; the queue-proxy's parent |
| `queue` | queue-proxy | a request's head, the end of its answer |
| `kn.queueproxy.proxy` | queue-proxy | the same; the app's parent |
| `kn.queueproxy.wait` | queue-proxy | until there was a place in the app, if there is a limit |

## Server-Timing

A request with `Prefer: server-timing` is answered with the parts of its time to the first byte, in milliseconds, which
browsers' developer tools draw:

    Server-Timing: route;dur=0.1, queue;dur=0.0, wake;dur=412.3;desc="start 380.1, probe 32.2",
        connect;dur=0.4, app;dur=3.1

`route` is the way from host and path to a revision, `queue` waiting for a place in a pod, `wake` waiting for the first
pod of a revision that slept (until it was there, and until it answered), `connect` for a connection to it, `app` from
there to the first byte. They follow each other without gaps.

## Request log

`logging.request-log-template` is a Go template over `.Request` (an `http.Request`), `.Response.Code`, `.Response.Size`,
`.Response.Latency`, `.Revision` and `.TraceID`; the default is one JSON object. Lines that nobody reads are dropped
once a megabyte of them waits: a log does not hold up requests.

## Profiles

`/debug/pprof/profile?seconds=N` (at most 120) samples every thread 99 times a second and answers collapsed stacks, the
input of flame graph tools (`flamegraph.pl`, speedscope). `/debug/pprof/tasks` lists what waits where.

## What it costs

CPU of a queue-proxy per request, with 64 connections (13 us with everything off), and of the activator's own path:

| switched on | queue-proxy | activator |
|---|---|---|
| nothing | 0 | less than 0.1 us |
| metrics | 2.2 us | 2.5 us |
| request log, default template | 8 to 10 us | 8 us |
| traces, a request that is not sampled | 4 to 5 us | 6 us |
| traces, one that is | about 20 us | 16 us |

Spans and metrics are encoded and pushed by a thread; of more than 2,048 spans in five seconds the rest is dropped and
counted. A scrape is written in slices of a millisecond and as fast as its reader reads, so that requests do not wait
for it: with a thousand revisions it takes a third of a second and has 37 MB, of which few are kept at a time. Memory of
a queue-proxy: 1 MB more for metrics, 20 MB more from the first
push on, for OpenTelemetry's libraries.
"""


def metrics() -> str:
    """What the two proxies measure."""
    out = [HEAD, _TELEMETRY]
    for title, table in (("Queue-proxy", queueproxy.telemetry.METRICS), ("Activator", activator.telemetry.METRICS)):
        out += [
            f"## {title}",
            "",
            "| name | for Prometheus | kind | unit | attributes | meaning |",
            "|---|---|---|---|---|---|",
        ]
        for metric in table:
            shown = prometheus_name(metric) + ("_total" if metric.kind == "counter" else "")
            attributes = ", ".join(f"`{name}`" for name in metric.attributes)
            row = (f"`{metric.name}`", f"`{shown}`", metric.kind, metric.unit, attributes, _cell(metric.help))
            out.append(f"| {' | '.join(row)} |")
        out.append("")
    buckets = ", ".join(f"{bound:g}" for bound in LATENCY_BUCKETS)
    waking = ", ".join(f"{bound:g}" for bound in WAKE_BUCKETS[len(LATENCY_BUCKETS) :])
    sizes = ", ".join(f"{bound:g}" for bound in COUNT_BUCKETS)
    out += [
        f"Buckets of durations: {buckets} seconds; of cold starts also {waking}. Of sizes: {sizes} bytes.",
        _TELEMETRY_REST,
    ]
    return "\n".join(out)


def main(arguments: list[str]) -> int:
    """Write the pages, or tell which are not current."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; 1 if a page is not current")
    check = parser.parse_args(arguments).check
    REFERENCE.mkdir(exist_ok=True)
    stale = 0
    for name, text in pages().items():
        path = REFERENCE / name
        if path.exists() and path.read_text() == text:
            continue
        stale += 1
        if check:
            sys.stderr.write(f"{path} is not current: run python docs/generate.py\n")
        else:
            path.write_text(text)
    return int(check and stale > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
