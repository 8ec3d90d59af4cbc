"""/usage: how late updates are, what an update and a subscriber cost, against the Python server of the document.

Fresh servers for every number of subscribers, under the same load (tests/load/usage.rs), which offers compression as
browsers do. Where the peer still delivers, both run in turn, several times.
"""

import json
import subprocess
import threading
import time

from table import (
    OURS,
    at_least,
    at_most,
    kilobytes,
    megabytes,
    microseconds,
    missing,
    number,
    print_growth,
    print_table,
    ratio,
    row,
    verdict,
)
from tools import (
    Failure,
    Missing,
    available_bytes,
    cpu_of_all,
    cpu_seconds,
    footprint,
    median,
    per,
    raise_descriptor_limit,
    running,
    say,
)

# That of the document's server.
INTERVAL_SECONDS = 10
CONNECT_LIMIT_SECONDS = 60
# What only starting needs is given back after five.
SETTLE_SECONDS = 6
# Where the cost of an update is judged: the peer still delivers some.
PAIRED = 200
PEER = "Python server"


def measure(servers, options):
    """By number of subscribers and server: what each round found; or why there is no peer."""
    most = max(options.subscribers)
    raise_descriptor_limit(most + 100)
    load, results, absent = servers.load(), {}, None
    for count in options.subscribers:
        rounds = options.rounds if count == PAIRED else 1
        seconds = 6 * INTERVAL_SECONDS if count >= 10000 else 3 * INTERVAL_SECONDS
        for turn in range(rounds):
            say(f"{count} subscribers, round {turn + 1} of {rounds}: {OURS}")
            settings = [f"interval={INTERVAL_SECONDS}", "usage.max_connections=0"]
            settings += ["usage.max_connections_per_ip=0"]
            with servers.agent(*settings) as server:
                one = measure_one(server, load, "grid", count, seconds)
                results.setdefault((count, OURS), []).append(one)
            if absent or count not in (PAIRED, 1000):
                continue
            say(f"{count} subscribers, round {turn + 1} of {rounds}: {PEER}")
            try:
                with servers.document_server() as server:
                    one = measure_one(server, load, "own", count, seconds)
                    results.setdefault((count, PEER), []).append(one)
            except Missing as reason:
                absent = reason
    return results, absent


def measure_one(server, load, schedule, subscribers, seconds):
    time.sleep(SETTLE_SECONDS)
    idle, free = footprint(server.pid), available_bytes()
    command = [load, f"127.0.0.1:{server.port}", "--hold", "--deflate", "--schedule", schedule]
    command += ["--subscribers", subscribers, "--interval", INTERVAL_SECONDS]
    command += ["--seconds", seconds, "--connect-limit", CONNECT_LIMIT_SECONDS]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with running(command, **pipes) as generator:
        watchdog = threading.Timer(CONNECT_LIMIT_SECONDS + seconds + 60, generator.kill)
        watchdog.start()
        try:
            if not generator.stdout.readline().startswith(b"ready "):
                raise Failure("the load generator ended before its window")
            before = clocks(server, generator)
            time.sleep(seconds)
            after = clocks(server, generator)
            line = generator.stdout.readline()
            # After the window: walking thousands of mappings would disturb it.
            loaded, left = footprint(server.pid), available_bytes()
        finally:
            watchdog.cancel()
    if not line or server.process.poll() is not None:
        raise Failure("the server or the load generator ended early")
    result = json.loads(line)
    used, load_used, all_used = (now - then for now, then in zip(after, before))
    # What connections that the server has closed meanwhile still take is unknown.
    held = 0 if result["closed_by_server"] else result["connected"]
    # With few, one would see the granularity of pages and of the kernel's counters.
    many = held if held >= 100 else 0
    return (
        result
        | loaded
        | {
            "cpu": used,
            "load_cpu": load_used,
            "other_cpu": all_used - used - load_used,
            "cpu_each": per(used, result["updates_received"]),
            "load_cpu_each": per(load_used, result["updates_received"]),
            "rss_each": per(loaded["rss"] - idle["rss"], many),
            "pss_each": per(loaded["pss"] - idle["pss"], many),
            # Everything else on the machine takes and frees tens of megabytes meanwhile.
            "machine_each": per(free - left, held if held >= 5000 else 0),
        }
    )


def clocks(server, generator):
    return cpu_seconds(server.pid), cpu_seconds(generator.pid), cpu_of_all()


def value(results, count, name, key):
    """The median of all rounds."""
    found = results.get((count, name), [])
    for part in key.split():
        found = [each[part] for each in found if each]
    return median(found)


def rows(measured):
    results, absent = measured
    ours = {count for count, name in results if name == OURS}

    def both(count, key):
        return [value(results, count, name, key) for name in (OURS, PEER)]

    nobody = str(absent) if absent else "–"
    most = max(ours)
    if most >= 1000:
        each, peers = value(results, most, OURS, "rss_each"), value(results, 1000, PEER, "rss_each")
        there = f"{kilobytes(peers)} (with 1,000)" if peers else nobody
        yield row(
            "memory per `/usage` subscriber",
            "≤ 14 KB",
            f"{kilobytes(each)} (with {most:,})",
            there,
            ratio(each, peers),
            verdict(at_most(each, 14e3)),
        )
    yield from lateness_rows(results, nobody)
    if PAIRED in ours:
        each, peers = both(PAIRED, "cpu_each")
        factor = ratio(each, peers)
        yield row(
            f"CPU per delivered update ({PAIRED} subscribers)",
            "≤ 1/80 of the Python server's",
            microseconds(each),
            microseconds(peers) if peers else nobody,
            factor,
            verdict(at_least(factor, 80)),
        )


def lateness_rows(results, nobody):
    late = "10,000 subscribers: updates late, p99", "≤ 100 ms"
    lost = "10,000 subscribers: updates missed", "none"
    if (10000, OURS) not in results:
        yield missing(*late, "with 10,000 subscribers only")
        yield missing(*lost, "with 10,000 subscribers only")
        return
    p99 = value(results, 10000, OURS, "lateness_ms p99")
    peers = value(results, PAIRED, PEER, "lateness_ms p99")
    there = f"{peers / 1e3:,.1f} s (with {PAIRED})" if peers else nobody
    yield row(*late, number(p99, 1, 1, " ms"), there, None, verdict(at_most(p99, 100)))
    result = results[10000, OURS][0]
    lost_ours, due, connected = (
        result[key] for key in ("updates_missed", "updates_expected", "connected")
    )
    ours = f"{lost_ours:,} of {due:,}"
    if connected < 10000:
        ours += f", {connected:,} connected"
    there = nobody
    if (PAIRED, PEER) in results:
        found = results[PAIRED, PEER]
        lost_there = sum(each["updates_missed"] for each in found)
        due_there = sum(each["updates_expected"] for each in found)
        there = f"{lost_there:,} of {due_there:,} (with {PAIRED})"
    kept = connected == 10000 and lost_ours == 0
    yield row(*lost, ours, there, None, verdict(kept))


COLUMNS = [
    ("connected", "connected", number),
    ("missed", "updates_missed", number),
    ("p50 (ms)", "lateness_ms p50", lambda value: number(value, 1, 1)),
    ("p99 (ms)", "lateness_ms p99", lambda value: number(value, 1, 1)),
    ("max (ms)", "lateness_ms max", lambda value: number(value, 1, 1)),
    ("CPU per update", "cpu_each", microseconds),
    ("RSS", "rss", megabytes),
    ("RSS per subscriber", "rss_each", kilobytes),
    ("PSS per subscriber", "pss_each", kilobytes),
    ("machine per subscriber", "machine_each", kilobytes),
    ("threads", "threads", number),
    ("open files", "files", number),
    ("the load's CPU per update", "load_cpu_each", microseconds),
]


def growth(measured):
    results, _ = measured
    print("### Subscribers of `/usage`\n")
    print(
        f'An update every {INTERVAL_SECONDS} s; the sample is part of what updates cost. "Late" counts from the tick; the '
        'load generator shares the processors, and its own slowness counts as lateness. "Machine" is what this machine\'s '
        "free memory lost for a connection, with both ends of it in the kernel.\n"
    )
    cells = [
        [f"{count:,}", name] + [form(value(results, count, name, key)) for _, key, form in COLUMNS]
        for count, name in results
    ]
    print_table(["subscribers", "server"] + [title for title, _, _ in COLUMNS], cells, 2)
    counts = [count for count, name in results if name == OURS]
    costs = {
        "CPU": [count * value(results, count, OURS, "cpu_each") for count in counts],
        "RSS": [value(results, count, OURS, "rss") for count in counts],
    }
    print_growth("subscribers", counts, costs)
