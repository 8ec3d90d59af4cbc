"""Samples and scrapes, against node_exporter: on this machine, and on machines of files with more and more of everything."""

import contextlib
import shutil
import time

import trees
from table import (
    at_least,
    kilobytes,
    megabytes,
    milliseconds,
    number,
    print_growth,
    print_table,
    ratio,
    row,
    verdict,
)
from tools import Line, Missing, cpu_seconds, footprint, median, per, say

PEER = "node_exporter"
# What Prometheus sends.
HEADERS = (
    "User-Agent: Prometheus/2.42.0\r\n"
    "Accept: application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1\r\n"
    "Accept-Encoding: gzip\r\nX-Prometheus-Scrape-Timeout-Seconds: 10\r\n"
)
NEVER = "interval=3600"
# Number of processors, number of disks.
MACHINES = [(4, 4), (32, 4), (128, 4), (512, 4), (4, 32), (4, 128), (4, 512)]


def scrape(line):
    return line.get("/metrics", HEADERS)


def scrapes_cost(server, times):
    """CPU of one of many, one behind the other."""
    with Line(server.port) as line:
        for _ in range(5):
            scrape(line)
        before = cpu_seconds(server.pid)
        for _ in range(times):
            scrape(line)
        return (cpu_seconds(server.pid) - before) / times


def samples(server):
    """How many the agent has taken; this is a scrape, too."""
    with Line(server.port) as line:
        _, body = line.get("/metrics")
        name = b"\nhm_agent_samples_total "
        at = body.index(name) + len(name)
        return float(body[at : body.index(b"\n", at)])


def once_a_second(agents, peers, seconds):
    """CPU of one sample of each agent, and of one scrape of each peer, for which neither has warm caches. What else they
    do in that time is part of it."""
    with contextlib.ExitStack() as stack:
        lines = [(peer, stack.enter_context(Line(peer.port))) for peer in peers]
        for _, line in lines:
            scrape(line)
        counted = [samples(agent) for agent in agents]
        before = [cpu_seconds(server.pid) for server in agents + peers]
        start = time.monotonic()
        for second in range(seconds):
            for at, (_, line) in enumerate(lines):
                due = start + second + (at + 0.5) / (len(lines) + 1)
                time.sleep(max(0, due - time.monotonic()))
                scrape(line)
        time.sleep(max(0, start + seconds - time.monotonic()))
        after = [cpu_seconds(server.pid) for server in agents + peers]
        used = [now - then for now, then in zip(after, before)]
        taken = [samples(agent) - count for agent, count in zip(agents, counted)]
    ours = [per(cpu, count) for cpu, count in zip(used, taken)]
    return ours, [cpu / seconds for cpu in used[len(agents) :]]


def measure(servers, options):
    result = {"sample": [], "scrape": [], "peer_seldom": [], "peer_scrape": []}
    absent = None
    with contextlib.ExitStack() as stack:
        sampling = stack.enter_context(servers.agent("interval=1"))
        asked = stack.enter_context(servers.agent(NEVER))
        try:
            peers = [stack.enter_context(servers.node_exporter())]
        except Missing as reason:
            peers, absent = [], reason
        # What only starting needs is done.
        time.sleep(6)
        for turn in range(options.rounds):
            say(f"samples and scrapes, round {turn + 1} of {options.rounds}")
            ours, theirs = once_a_second([sampling], peers, 10)
            result["sample"] += ours
            result["peer_seldom"] += theirs
            result["peer_scrape"] += [scrapes_cost(peer, 50) for peer in peers]
            result["scrape"].append(scrapes_cost(asked, 500))
        result["series"] = series(asked)
        result["peer_series"] = series(peers[0]) if peers else None
    return result, absent


def series(server):
    with Line(server.port) as line:
        _, body = line.get("/metrics")
    return sum(1 for text in body.splitlines() if text[:1] not in (b"#", b""))


def rows(measured):
    result, absent = measured
    for what, key, peers, of_peer in (
        ("CPU per sample, once a second", "sample", "peer_seldom", "a scrape, once a second"),
        ("CPU per `/metrics` scrape", "scrape", "peer_scrape", "a scrape"),
    ):
        budget = "≤ 1/20 of a node_exporter scrape"
        ours, theirs = median(result[key]), median(result[peers])
        there = f"{milliseconds(theirs)} (node_exporter, {of_peer})" if theirs else str(absent)
        factor = ratio(ours, theirs)
        yield row(what, budget, milliseconds(ours), there, factor, verdict(at_least(factor, 20)))


def details(measured):
    result, _ = measured
    print(f"On this machine, {result['series']:,} series of ours", end="")
    print(f", {result['peer_series']:,} of node_exporter's.\n" if result["peer_series"] else ".\n")


def measure_growth(servers, options):
    """All machines at the same time, so that what else this one does is shared."""
    machines = MACHINES[:3] + MACHINES[4:6] if options.quick else MACHINES
    found = {}
    roots = [trees.grow(servers.directory() / "machine", cores, disks) for cores, disks in machines]
    with contextlib.ExitStack() as stack:

        def agents(interval):
            for root in roots:
                paths = [f"path.{name}={root / name}" for name in ("proc", "sys", "root")]
                yield stack.enter_context(servers.agent(interval, *paths))

        sampling, asked = list(agents("interval=1")), list(agents(NEVER))
        try:
            peers = [
                stack.enter_context(
                    servers.node_exporter(
                        f"--path.procfs={root / 'proc'}",
                        f"--path.sysfs={root / 'sys'}",
                        f"--path.rootfs={root / 'root'}",
                    )
                )
                for root in roots
            ]
        except Missing:
            peers = []
        time.sleep(6)
        say("machines of files: a sample and a scrape a second")
        ours, theirs = once_a_second(sampling, peers, 10 if options.quick else 20)
        for at, machine in enumerate(machines):
            say(f"a machine with {machine[0]} processors and {machine[1]} disks: scrapes")
            turns = range(options.rounds)
            result = footprint(sampling[at].pid)
            result["sample"] = ours[at]
            result["scrape"] = median(scrapes_cost(asked[at], 100) for _ in turns)
            result["series"] = series(asked[at])
            if peers:
                result["peer_seldom"] = theirs[at]
                result["peer_scrape"] = median(scrapes_cost(peers[at], 10) for _ in turns)
                result["peer_series"] = series(peers[at])
                result["peer_rss"] = footprint(peers[at].pid)["rss"]
            found[machine] = result
    for root in roots:
        shutil.rmtree(root)
    return found


def growth(found):
    print("### Processors and disks\n")
    print(
        "A captured machine (`tests/fixtures/x86`) with more processors, and with more disks, each with a partition and a "
        "mounted file system, as files: without the time that the kernel takes to make them. node_exporter reads the same. Of "
        "each kind of device `/metrics` tells 256, so from there on a scrape grows no more.\n"
    )
    titles = [
        "processors",
        "disks",
        "a sample",
        "a scrape",
        "series",
        "RSS",
        "of its own",
        "threads",
        "open files",
    ]
    titles += [
        "node_exporter: a scrape a second",
        "one of many",
        "series",
        "RSS",
        "by our sample",
        "by our scrape",
    ]
    cells = []
    for (cores, disks), one in found.items():
        seldom, often = one.get("peer_seldom"), one.get("peer_scrape")
        cells.append(
            [
                f"{cores}",
                f"{disks}",
                milliseconds(one["sample"]),
                milliseconds(one["scrape"]),
                number(one["series"]),
                megabytes(one["rss"]),
                kilobytes(one["own"]),
                number(one["threads"]),
                number(one["files"]),
                milliseconds(seldom),
                milliseconds(often),
                number(one.get("peer_series")),
                megabytes(one.get("peer_rss")),
                number(ratio(one["sample"], seldom), 1, 1),
                number(ratio(one["scrape"], often), 1, 1),
            ]
        )
    print_table(titles, cells, 0)
    for what, at, other in (("processors", 0, 1), ("disks", 1, 0)):
        machines = [machine for machine in found if machine[other] == 4]
        kinds = (("a sample", "sample"), ("a scrape", "scrape"), ("own memory", "own"))
        costs = {title: [found[each][key] for each in machines] for title, key in kinds}
        print_growth(what, [each[at] for each in machines], costs)
