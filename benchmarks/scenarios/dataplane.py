"""dataplane-probe: 1,000 requests/s to five pods whose requests take 100 ms; what the way there adds.

The original's test runs 3 minutes with containerConcurrency 0 against a plain Deployment, through the queue-proxy only,
and through activator and queue-proxy, and wants p95 within 105 ms for the first and 110 ms for the others, and no more
than one request in a thousand missing. Ours is the same, shorter: a plain process as control, then the pods'
queue-proxies asked directly, then the public address.
"""

from benchmarks.load import pace
from benchmarks.platform import platform
from benchmarks.report import Report
from benchmarks.samples import table
from benchmarks.scenarios.passline import PassLine, lines
from benchmarks.scenarios.services import bare, queue_proxies, settle, target, work

__all__ = ["measure"]

RATE = 1000.0
PODS = 5
CONNECTIONS = 400
LINES = {"control": 105.0, "queue-proxy": 110.0, "activator": 110.0}
"""p95, ms."""
ENTRY = "K-Proxy-Request"


async def measure(report: Report) -> None:
    """Take the samples and summarise them."""
    seconds = 5.0 if report.options.quick else 15.0
    rows = []
    shown: dict[str, list[float | str]] = {}
    async with platform() as running:
        await running.apply(
            work("probe", scaling={"min-scale": str(PODS), "max-scale": str(PODS), "target-burst-capacity": "-1"})
        )
        await settle()
        pods = await queue_proxies(running, "probe")
        with bare() as alone:
            ways = {"control": [alone], "queue-proxy": pods, "activator": [running.ingress]}
            for name, addresses in ways.items():
                load = pace.stages(
                    addresses,
                    [target(running, "probe")],
                    rates=[RATE],
                    seconds=seconds,
                    connections=CONNECTIONS,
                )
                report.note(f"{name}: p95 {load.p95 * 1000:.1f} ms, {load.requests} answers, {load.told_errors()}")
                report.samples[name] = load.to_json()
                shown[name] = [
                    f"{load.rate:,.1f}",
                    *(f"{value * 1000:.1f}" for value in (load.p50, load.p95, load.p99, load.longest)),
                    str(load.errors),
                ]
                scenario = f"dataplane-probe/{name}"
                rows += [
                    PassLine(scenario=scenario, metric="p95 ms", bound=LINES[name]).row(load.p95 * 1000),
                    PassLine(scenario=scenario, metric="share of requests answered", bound=0.999, at_least=True).row(
                        load.requests / (RATE * seconds)
                    ),
                ]
    report.rows.extend(rows)
    report.say(
        f"dataplane-probe: {RATE:,.0f} requests/s for {seconds:.0f} s to {PODS} pods that take 100 ms",
        *table(("answers/s", "p50 ms", "p95 ms", "p99 ms", "max ms", "errors"), shown),
        *lines(rows),
    )
