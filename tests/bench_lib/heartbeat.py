"""Heartbeats: requests a second, against the released Python server, and what thousands of applications cost.

wrk sends the same request to both, in turn, on connections that are kept and on ones that are closed after each.
"""

import contextlib
import re
import subprocess
import time

from table import (
    OURS,
    at_least,
    kilobytes,
    megabytes,
    microseconds,
    milliseconds,
    missing,
    number,
    print_growth,
    print_table,
    row,
    verdict,
)
from tools import (
    Failure,
    Line,
    Missing,
    cpu_seconds,
    footprint,
    found,
    median,
    per,
    raise_descriptor_limit,
    say,
)

PEER = "released server"
TARGET = "/hb_ping?5000&appid=demo"
KEPT, CLOSED = "kept alive", "closed each time"
# Ratio of requests a second that the design promises.
BUDGETS = {KEPT: 5, CLOSED: 1.5}
CONNECTIONS = 4
APPS = [1, 100, 1000, 10000]
IDLE = [100, 1000, 5000]
# So many beats are counted.
BEATS = 20000


def measure(servers, options):
    """By how connections are used and server: the results of all rounds."""
    wrk = found("wrk")
    results, absent = {}, None
    with contextlib.ExitStack() as stack:
        agent = stack.enter_context(servers.agent())
        both = [(OURS, agent.process, agent.heartbeat)]
        try:
            peer = stack.enter_context(servers.heartbeat_server())
            both.append((PEER, peer.process, peer.port))
        except Missing as reason:
            absent = reason
        for turn in range(options.rounds):
            for mode in BUDGETS:
                for name, process, port in both:
                    say(f"heartbeats, round {turn + 1} of {options.rounds}: {name}, {mode}")
                    one = requests(wrk, process, port, mode)
                    results.setdefault((mode, name), []).append(one)
    return results, absent


def requests(wrk, process, port, mode, seconds=4):
    command = [wrk, "--threads", "1", "--connections", str(CONNECTIONS), "--latency"]
    command += ["--duration", f"{seconds}s"]
    if mode == CLOSED:
        command += ["--header", "Connection: close"]
    before = cpu_seconds(process.pid)
    done = subprocess.run(
        [*command, f"http://127.0.0.1:{port}{TARGET}"],
        check=True,
        capture_output=True,
        text=True,
        timeout=seconds + 30,
    )
    used = cpu_seconds(process.pid) - before
    time.sleep(0.2)
    text = done.stdout
    if process.poll() is not None or "Non-2xx" in text:
        raise Failure(f"the server failed:\n{text}")
    amount, unit = re.search(r"99%\s+([\d.]+)(us|ms|s)", text).groups()
    return {
        "rate": float(re.search(r"Requests/sec:\s+([\d.]+)", text)[1]),
        "p99": float(amount) * {"us": 1e-6, "ms": 1e-3, "s": 1}[unit],
        "cpu": per(used, int(re.search(r"(\d+) requests in", text)[1])),
    }


def value(results, mode, name, key):
    return median(found[key] for found in results.get((mode, name), []))


def rows(measured):
    results, absent = measured
    for mode, least in BUDGETS.items():
        ours, theirs = (value(results, mode, name, "rate") for name in (OURS, PEER))
        factor = ours / theirs if theirs else None
        there = f"{theirs:,.0f} ({PEER})" if theirs else str(absent)
        what, budget = f"heartbeat requests/s, {mode}", f"≥ {least} × the released server's"
        yield row(what, budget, f"{ours:,.0f}", there, factor, verdict(at_least(factor, least)))


def unmeasured(reason):
    for mode, least in BUDGETS.items():
        what, budget = f"heartbeat requests/s, {mode}", f"≥ {least} × the released server's"
        yield missing(what, budget, reason)


def details(measured):
    results, _ = measured
    print("### Heartbeats\n")
    print(
        f"`{TARGET}` over {CONNECTIONS} connections of wrk, which shares the processors. The released server closes every "
        "connection.\n"
    )
    cells = [
        [
            mode,
            name,
            number(value(results, mode, name, "rate")),
            number(value(results, mode, name, "p99"), 1e-3, 2),
            microseconds(value(results, mode, name, "cpu")),
        ]
        for mode, name in results
    ]
    print_table(["connections", "server", "requests/s", "p99 (ms)", "CPU per request"], cells, 2)


def measure_growth(servers, options):
    """By number of applications: what a beat, a sample and a look at one of them cost, and memory."""
    results = {}
    for apps in APPS:
        say(f"{apps} applications")
        with servers.agent("interval=1") as server, Line(server.heartbeat) as line:
            # The first few, so that what the first request needs is not counted against it.
            line.get("/list")
            time.sleep(6)
            before = footprint(server.pid)
            for app in range(apps):
                line.get(f"/hb_init?600000&appid=application{app}")
            # It writes the table down within two seconds; samples that show all have replaced those before.
            time.sleep(4)
            result = footprint(server.pid)
            result["each"] = per(result["own"] - before["own"], apps if apps >= 100 else 0)
            start, first = time.monotonic(), cpu_seconds(server.pid)
            time.sleep(5)
            second = time.monotonic() - start
            result["second"] = (cpu_seconds(server.pid) - first) / second
            result["beat"] = cost(
                server,
                line,
                BEATS,
                result["second"],
                lambda at: f"/hb_ping?600000&appid=application{at % apps}",
            )
            last = apps - 1
            result["one"] = cost(
                server, line, 2000, result["second"], lambda _: f"/status?0&appid=application{last}"
            )
            result["all"] = cost(server, line, 50, result["second"], lambda _: "/status")
            results[apps] = result
    return results, idle_connections(servers)


def idle_connections(servers):
    """Connections that have asked once and stay, by their number."""
    raise_descriptor_limit(max(IDLE) + 100)
    results = {}
    for count in IDLE:
        say(f"{count} idle connections to the heartbeat port")
        with servers.agent() as server, contextlib.ExitStack() as stack:
            with Line(server.heartbeat) as line:
                line.get("/list")
            time.sleep(6)
            before = footprint(server.pid)
            for _ in range(count):
                stack.enter_context(Line(server.heartbeat)).get("/list")
            after = footprint(server.pid)
            results[count] = after | {
                "rss_each": per(after["rss"] - before["rss"], count),
                "own_each": per(after["own"] - before["own"], count),
            }
    return results


def cost(server, line, times, each_second, target):
    """CPU of one of many requests, without what a second costs anyway."""
    start, before = time.monotonic(), cpu_seconds(server.pid)
    for at in range(times):
        line.get(target(at))
    took = time.monotonic() - start
    return max(0, cpu_seconds(server.pid) - before - took * each_second) / times


def growth(measured):
    results, idle = measured
    print("### Applications that beat\n")
    print(
        "One connection asks, one request after the other. A second is one sample, and whatever else the agent does without "
        "being asked.\n"
    )
    titles = [
        "applications",
        "a beat",
        "`/status` of one",
        "`/status` of the host",
        "a second",
        "own memory",
    ]
    titles += ["per application", "threads", "open files"]
    cells = [
        [
            f"{apps:,}",
            microseconds(one["beat"]),
            microseconds(one["one"]),
            microseconds(one["all"]),
            milliseconds(one["second"]),
            megabytes(one["own"]),
            kilobytes(one["each"]),
            number(one["threads"]),
            number(one["files"]),
        ]
        for apps, one in results.items()
    ]
    print_table(titles, cells, 0)
    kinds = {"a beat": "beat", "`/status` of one": "one", "`/status` of the host": "all"}
    kinds |= {"a second": "second", "own memory": "own"}
    costs = {title: [one[key] for one in results.values()] for title, key in kinds.items()}
    print_growth("applications", list(results), costs)
    print("Connections to that port that have asked once and stay:\n")
    cells = [
        [
            f"{count:,}",
            kilobytes(one["rss_each"]),
            kilobytes(one["own_each"]),
            number(one["threads"]),
            number(one["files"]),
        ]
        for count, one in idle.items()
    ]
    print_table(["connections", "RSS each", "own memory each", "threads", "open files"], cells, 0)
