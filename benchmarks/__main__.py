"""`python -m benchmarks NAME`: run one benchmark, print its summary, keep its samples; `all` runs them one by one."""

import argparse
import ast
import importlib
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

import uvloop

from benchmarks import everything
from benchmarks.load.report import NoTool
from benchmarks.machine import wait_until_calm
from benchmarks.nginx import NoNginx
from benchmarks.platform import NotMeasured
from benchmarks.report import Options, Report

__all__ = ["BENCHMARKS", "main"]

BENCHMARKS = {
    "peers": ("comparison", "queue-proxy and activator beside the original's, nginx, Go's and aiohttp's"),
    "proxy": ("proxy", "both proxies in a row on a whole platform, beside nginx twice"),
    "features": ("features", "what each feature of the proxies costs per request"),
    "tls": ("tls", "requests and handshakes in TLS, beside nginx"),
    "attacks": ("attacks", "what other clients notice while one is hostile"),
    "bodies": ("bodies", "what a queue-proxy holds of large bodies while they pass"),
    "fairness": ("fairness", "what a small tenant notices of one that sends a hundred times as much"),
    "overload": ("overload", "goodput, refusals and memory beyond capacity"),
    "dataplane-probe": ("scenarios.dataplane", "the original's test: what the way to a pod adds at 1,000 requests/s"),
    "load-test": ("scenarios.loadtest", "the original's test: from zero to 3,000 requests/s"),
    "scale-from-zero": ("scenarios.fromzero", "the original's test: 1, 5, 25 and 100 services woken at once"),
    "rollout-probe": ("scenarios.rollout", "the original's test: a new revision under steady load"),
    "real-traffic": ("scenarios.realtraffic", "the original's test: requests, answers and starts of every size"),
    "startup": ("startup", "`torpor up`, from the command to ready"),
    "memory": ("memory", "memory of the platform at rest, process by process"),
    "coldstart": ("coldstart", "a sleeping service woken: what the platform adds to the app's own start"),
    "wake25": ("wake25", "25 sleeping services woken at once, five rounds"),
    "soak": ("soak", "30 minutes of mixed traffic: memory, descriptors, and what is left at the end"),
}
"""Name: module in this package, with an `async def measure(report)`, and what it is about."""
RAW = argparse.RawDescriptionHelpFormatter
OUT = Path(__file__).parent / "out"


def main(arguments: Sequence[str]) -> int:
    """Run what the command line asks for; returns the exit code."""
    given = _parser().parse_args(arguments)
    if given.name == "all":
        return everything.run(_there(), quick=given.quick, out=given.out, patience=given.wait, only=given.only)
    options = Options(
        quick=given.quick, count=given.count, out=given.out, patience=given.wait, only=frozenset(given.only)
    )
    measure = importlib.import_module(f"benchmarks.{BENCHMARKS[given.name][0]}").measure
    calm = wait_until_calm(options.patience)
    report = Report(given.name, options, calm)
    report.note(f"{given.name}: others use {calm.busy:.0%} of the machine (waited {calm.waited:.0f} s)")
    try:
        uvloop.run(measure(report))
    except (NotMeasured, NoNginx, NoTool) as exc:
        print(f"{given.name}: {exc}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    report.finish()
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Measure Torpor on this machine; see benchmarks/README.md."
    )
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--quick", action="store_true", help="a few short samples: shows that it works, not how fast")
    common.add_argument("-n", dest="count", type=_positive, metavar="N", help="samples (rounds) instead of the default")
    common.add_argument(
        "--only",
        type=_names,
        default=(),
        metavar="A,B",
        help="only these parts, where there are several",
    )
    common.add_argument(
        "--out", type=Path, default=OUT, metavar="DIR", help="where the JSON file goes (default: benchmarks/out)"
    )
    common.add_argument(
        "--wait",
        type=float,
        default=60.0,
        metavar="SECONDS",
        help="wait at most this long until others leave the machine alone (default: 60)",
    )
    commands = parser.add_subparsers(dest="name", required=True, metavar="NAME")
    commands.add_parser(
        "all", help=everything.TEXT, description=everything.__doc__, parents=[common], formatter_class=RAW
    )
    for name in _there():
        module, text = BENCHMARKS[name]
        commands.add_parser(name, help=text, description=_about(module), parents=[common], formatter_class=RAW)
    return parser


def _there() -> list[str]:
    """Names of the benchmarks that this clone has."""
    return [name for name, (module, _) in BENCHMARKS.items() if importlib.util.find_spec(f"benchmarks.{module}")]


def _about(module: str) -> str:
    """A benchmark's own words, read without importing it: most import the platform."""
    spec = importlib.util.find_spec(f"benchmarks.{module}")
    assert spec is not None
    assert spec.origin is not None
    return ast.get_docstring(ast.parse(Path(spec.origin).read_text())) or ""


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
