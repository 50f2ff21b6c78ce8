"""`python -m benchmarks NAME`: run one benchmark, print its summary, keep its samples."""

import argparse
import sys
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import uvloop

from benchmarks import coldstart, comparison, memory, proxy, startup, wake25
from benchmarks.load.report import NoTool
from benchmarks.machine import wait_until_calm
from benchmarks.nginx import NoNginx
from benchmarks.platform import NotMeasured
from benchmarks.report import Options, Report

__all__ = ["main"]

BENCHMARKS: dict[str, tuple[Callable[[Report], Coroutine[Any, Any, None]], str]] = {
    "startup": (startup.measure, "`torpor up`, from the command to ready"),
    "memory": (memory.measure, "memory of the platform at rest, process by process"),
    "coldstart": (coldstart.measure, "a sleeping service woken: what the platform adds to the app's own start"),
    "wake25": (wake25.measure, "25 sleeping services woken at once"),
    "peers": (comparison.measure, "the queue-proxy beside the original's, nginx, Go's and aiohttp's, under every load"),
    "proxy": (proxy.measure, "requests/s and CPU per request, beside nginx"),
}
OUT = Path(__file__).parent / "out"


def main(arguments: Sequence[str]) -> int:
    """Run what the command line asks for; returns the exit code."""
    given = _parser().parse_args(arguments)
    options = Options(
        quick=given.quick, count=given.count, out=given.out, patience=given.wait, only=frozenset(given.only)
    )
    calm = wait_until_calm(options.patience)
    report = Report(given.name, options, calm)
    report.note(f"{given.name}: others use {calm.busy:.0%} of the machine (waited {calm.waited:.0f} s)")
    try:
        uvloop.run(BENCHMARKS[given.name][0](report))
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
        help="measure these parts (loads) only, where there are several",
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
    for name, (measure, text) in BENCHMARKS.items():
        module = sys.modules[measure.__module__]
        commands.add_parser(
            name,
            help=text,
            description=module.__doc__,
            parents=[common],
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
    return parser


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
