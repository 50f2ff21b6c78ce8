"""`python -P -m torpor.embedded.apiserver --state-dir D`: the API server alone, for tests and for looking around."""

import argparse
import asyncio
import contextlib
import signal
import sys
from pathlib import Path

import uvloop

from kncore.errors import KnError
from torpor.embedded.apiserver.server import ApiServer

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; the exit code."""
    parser = argparse.ArgumentParser(prog="torpor.embedded.apiserver", description=__doc__)
    parser.add_argument("--state-dir", required=True, type=Path, help="where objects are kept")
    parser.add_argument("--listen", default="127.0.0.1:0", help="ADDRESS:PORT; port 0 takes a free one")
    parser.add_argument("--kubeconfig", type=Path, help="write a kubeconfig here (default: in the state directory)")
    parser.add_argument("--plain", action="store_true", help="HTTP without TLS (kubectl then sends no token)")
    options = parser.parse_args(arguments)
    host, _, port = options.listen.rpartition(":")
    kubeconfig = options.kubeconfig or options.state_dir / "kubeconfig"
    try:
        return uvloop.run(_serve(options.state_dir, (host.strip("[]"), int(port)), not options.plain, kubeconfig))
    except (KnError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 1


async def _serve(state_dir: Path, listen: tuple[str, int], tls: bool, kubeconfig: Path) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    server = ApiServer(state_dir, listen=listen, tls=tls)
    await server.start()
    try:
        server.write_kubeconfig(kubeconfig)
        print(server.url, flush=True)  # noqa: T201 - tests and scripts wait for this line
        stopping = asyncio.ensure_future(stop.wait())
        failing = asyncio.ensure_future(server.failed())
        await asyncio.wait([stopping, failing], return_when=asyncio.FIRST_COMPLETED)
        for task in (stopping, failing):
            task.cancel()
        return 1 if not stop.is_set() else 0
    finally:
        with contextlib.suppress(asyncio.CancelledError):
            await server.stop()


if __name__ == "__main__":
    sys.exit(main())
