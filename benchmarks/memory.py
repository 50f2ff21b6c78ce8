"""Memory of the platform at rest: process by process, with no service, with a sleeping one, with an awake one.

The total is the sum of PSS, where a page that several processes map counts once; the sum of RSS counts it as often as
it is mapped and is given because `ps` and `top` show it. The app of the awake pod is not the platform's; its
queue-proxy is.
"""

import asyncio
from collections.abc import Mapping

from benchmarks.client import ask
from benchmarks.platform import Platform, hello, platform
from benchmarks.procfs import Memory, descendants, listener, memory
from benchmarks.report import Report
from benchmarks.samples import table
from kncore.api import meta

__all__ = ["measure"]

SETTLED = 5.0  # seconds after the last change before memory is read
NOTHING = Memory(rss=0, pss=0, uss=0)


async def measure(report: Report) -> None:
    """Take the samples and summarise them."""
    settled = 2.0 if report.options.quick else SETTLED
    seen: dict[str, Mapping[str, Memory]] = {}
    async with platform() as running:
        await asyncio.sleep(settled)
        seen["no service"] = _read(running, None)
        report.note("read with no service")
        await running.apply(hello())
        await running.asleep("hello", drained=True)
        await asyncio.sleep(settled)
        seen["one sleeping"] = _read(running, None)
        report.note("read with one sleeping service")
        await asyncio.to_thread(ask, running.ingress, "/", running.host("hello"))
        await asyncio.sleep(2)  # its pod stays for the stable window of 6 s
        (pod,) = [one for one in await running.pods("hello") if not meta.is_deleting(one)]
        seen["one awake"] = _read(running, str(meta.at(pod, "status", "podIP")))
        report.note("read with one awake pod")
    _summarise(report, seen)


def _read(running: Platform, pod_ip: str | None) -> dict[str, Memory]:
    """Memory by the name of each platform process."""
    found = {name: memory(pid) for name, pid in running.components().items()}
    if pod_ip is not None:
        proxy = listener(pod_ip, 8012, descendants(running.started.process.pid))
        if proxy is None:
            raise RuntimeError(f"no process listens on {pod_ip}:8012")
        found["queue-proxy"] = memory(proxy)
    return found


def _summarise(report: Report, seen: Mapping[str, Mapping[str, Memory]]) -> None:
    for state, found in seen.items():
        total = sum(found.values(), NOTHING)
        report.samples[state] = {name: vars(one) for name, one in found.items()}
        report.summary[state] = {"rss_mb": _mb(total.rss), "pss_mb": _mb(total.pss)}
        report.say(
            f"{state}; MB",
            *table(
                ("RSS", "PSS", "USS"),
                {
                    **{name: (_mb(one.rss), _mb(one.pss), _mb(one.uss)) for name, one in found.items()},
                    "total": (_mb(total.rss), _mb(total.pss), _mb(total.uss)),
                },
            ),
            "",
        )


def _mb(count: int) -> float:
    return round(count / 1e6, 1)
