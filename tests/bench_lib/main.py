"""Measures the agent, as it is shipped, against its budgets and its peers, and how each cost grows. Prints Markdown.

The exit code says whether everything ran, not whether the budgets are kept. Progress goes to standard error.
"""

import argparse
import datetime
import os
import platform
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import gpus
import heartbeat
import hosts
import idle
import metrics
import usage
from servers import Servers
from table import OURS, UNKNOWN, print_table
from tools import REPOSITORY, Failure, Missing, say

PARTS = ["idle", "usage", "metrics", "heartbeat", "growth"]
GROWTH = ["machines", "gpus", "apps", "hosts"]


def main():
    options = arguments()
    # So that the children end with this program.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        with tempfile.TemporaryDirectory(prefix="hm-agent-bench-") as scratch:
            measure(Servers(options, Path(scratch)), options)
    except (Failure, Missing, subprocess.CalledProcessError, OSError) as failure:
        sys.exit(f"tests/bench: {failure}")


def arguments():
    def counts(text):
        return sorted({int(count) for count in text.split(",")})

    parser = argparse.ArgumentParser(prog="tests/bench", description=__doc__.split("\n")[0])
    known = PARTS + GROWTH
    parser.add_argument("part", nargs="*", metavar="PART", help=f"these alone: {', '.join(known)}")
    parser.add_argument("--quick", action="store_true", help="fewer rounds, smaller crowds")
    parser.add_argument("--subscribers", type=counts, help="e.g. 1,200,1000,10000")
    parser.add_argument("--rounds", type=int, help="of what is measured in turn")
    document = REPOSITORY / "../shared/specs/usage.md"
    parser.add_argument(
        "--document",
        type=Path,
        default=document,
        help="the /usage protocol's text, with its server",
    )
    parser.add_argument(
        "--server",
        type=Path,
        default=os.environ.get("HM_HEARTBEAT_SERVER"),
        help="server/heartbeat.py of hilbert-heartbeat 1.0.0 (default: HM_HEARTBEAT_SERVER)",
    )
    options = parser.parse_args()
    options.rounds = options.rounds or (1 if options.quick else 3)
    crowd = [1, 200, 1000] if options.quick else [1, 200, 1000, 10000]
    options.subscribers = options.subscribers or crowd
    parts = set(options.part or PARTS)
    options.parts = parts | set(GROWTH if "growth" in parts else [])
    if unknown := set(options.part) - set(known):
        parser.error(f"there is no {', '.join(unknown)}; there are {', '.join(known)}")
    if options.server and not options.server.is_file():
        parser.error(f"--server: there is no {options.server}")
    if min(options.subscribers) < 1 or options.rounds < 1:
        parser.error("there must be at least one")
    return options


def measure(servers, options):
    """Everything first, then the one table, then the others. What fails is said, and costs nothing of the rest."""
    budgets, tables, failures = [], [], []

    def tried(name, measure):
        if name not in options.parts:
            return
        try:
            measure()
        except (Failure, subprocess.CalledProcessError, OSError) as failure:
            say(f"{name} failed: {failure}")
            failures.append(name)

    def judge(module, show):
        try:
            measured = module.measure(servers, options)
        except Missing as reason:
            budgets.extend(module.unmeasured(reason))
            return
        budgets.extend(module.rows(measured))
        tables.append((show, measured))

    def grow(module):
        try:
            tables.append((module.growth, module.measure_growth(servers, options)))
        except Missing as reason:
            tables.append((print, f"{module.__name__}: {UNKNOWN}: {reason}\n"))

    tried("idle", lambda: judge(idle, idle.details))
    tried("usage", lambda: judge(usage, usage.growth))
    tried("metrics", lambda: judge(metrics, metrics.details))
    tried("heartbeat", lambda: judge(heartbeat, heartbeat.details))
    tried("machines", lambda: grow(metrics))
    tried("gpus", lambda: grow(gpus))
    tried("apps", lambda: grow(heartbeat))
    tried("hosts", lambda: grow(hosts))
    say("done")
    head(servers, options)
    if budgets:
        titles = ["what", "budget", OURS, "peer", "ratio", "kept"]
        print_table(titles, budgets, 2)
        missed = sum("missed" in cells[-1] for cells in budgets)
        unknown = sum(UNKNOWN in cells[-1] for cells in budgets)
        kept = len(budgets) - missed - unknown
        print(f"{kept} of {len(budgets)} kept, {missed} missed, {unknown} not measured.\n")
    for show, measured in tables:
        show(measured)
    if options.parts >= set(PARTS):
        print((Path(__file__).parent / "elsewhere.md").read_text(), end="")
    if failures:
        raise Failure(f"failed: {', '.join(failures)}")


def head(servers, options):
    version = subprocess.run([servers.program, "--version"], capture_output=True, text=True)
    today = datetime.datetime.now(datetime.timezone.utc)
    is_virtual = "hypervisor" in Path("/proc/cpuinfo").read_text()
    machine = "a virtual server" if is_virtual else "a server"
    print("# Numbers\n")
    print(
        f"`{command(options)}`, {today:%Y-%m-%d}: {version.stdout.strip()}, the static binary, on {machine} with "
        f"{os.cpu_count()} processors, Linux {platform.release().split('-')[0]}, {platform.machine()}. All of it is one run, in "
        "which agent and peers were measured in turn or at the same time; their load shares the processors. Of several rounds "
        "it is the median. 1 MB is 1,000,000 bytes. A ratio says how many times better the agent is: the peer's value by ours, "
        "of requests/s ours by the peer's. A virtual server's speed changes from run to run; ratios hardly do.\n"
    )


def command(options):
    """As anybody can run it again: without the names of files."""
    words = ["./tests/bench"] + options.part
    if options.quick:
        words.append("--quick")
    if options.server:
        words.append("--server FILE")
    return " ".join(words)


if __name__ == "__main__":
    main()
