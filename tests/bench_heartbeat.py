"""Measures heartbeats against the released Python server, hilbert-heartbeat 1.0.0.

wrk sends the same request to both, in turn, on connections that are kept and on ones that
are closed after each. Prints a Markdown table, the median of all rounds, and which budgets
are kept. The exit code says whether everything ran, not whether the budgets are kept.
"""

import argparse
import contextlib
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench import REPOSITORY, Failure, running, say, started
from bench_report import OURS

PEER = "released server"
TARGET = "/hb_ping?5000&appid=demo"
KEPT, CLOSED = "keep-alive", "Connection: close"
# Ratio of requests a second that the design promises.
BUDGETS = {KEPT: 5, CLOSED: 1.5}
CONNECTIONS = 4


def main(arguments):
    options = parse(arguments)
    try:
        if not shutil.which("wrk"):
            raise Failure("wrk is missing: apt-get install wrk")
        with tempfile.TemporaryDirectory(prefix="hm-agent-bench-") as scratch:
            results = measure_all(options, Path(scratch))
    except (Failure, subprocess.CalledProcessError, OSError) as failure:
        sys.exit(f"tests/bench: {failure}")
    report(options, results)


def parse(arguments):
    parser = argparse.ArgumentParser(
        prog="tests/bench heartbeat", description=__doc__.split("\n")[0]
    )
    server = os.environ.get("HM_HEARTBEAT_SERVER")
    parser.add_argument(
        "--server",
        type=Path,
        default=server,
        required=not server,
        help="server/heartbeat.py of hilbert-heartbeat 1.0.0 "
        "(default: HM_HEARTBEAT_SERVER)",
    )
    parser.add_argument("--seconds", type=int, default=5, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(arguments)
    if not options.server.is_file():
        parser.error(f"--server: there is no {options.server}")
    return options


def measure_all(options, scratch):
    """By how connections are used and server: the results of all rounds."""
    build = subprocess.run(
        [REPOSITORY / "packaging/build-static"], check=True, stdout=subprocess.PIPE
    )
    agent = build.stdout.decode().strip()
    results = {}
    with running_agent(agent, scratch) as ours, running_peer(options, scratch) as peer:
        for number in range(options.rounds):
            for mode in (KEPT, CLOSED):
                for name, (process, port) in ((OURS, ours), (PEER, peer)):
                    say(f"round {number + 1}: {name}, {mode}")
                    found = measure(process, port, mode, options.seconds)
                    results.setdefault((mode, name), []).append(found)
    return results


@contextlib.contextmanager
def running_agent(agent, scratch):
    log, settings = scratch / "hm-agent.log", scratch / "hm-agent.toml"
    settings.touch()
    command = [agent, "-c", settings]
    for setting in (
        "usage.listen=127.0.0.1:0",
        "heartbeat.listen=127.0.0.1:0",
        f"state_dir={scratch}",
    ):
        command += ["-s", setting]
    plain = {k: v for k, v in os.environ.items() if not k.startswith("HM_AGENT_")}
    with log.open("w") as stderr, running(command, env=plain, stderr=stderr) as process:

        def port():
            found = re.search(r"heartbeat listening on \S+:(\d+)", log.read_text())
            return int(found[1]) if found else None

        yield process, started(OURS, process, port, log)


@contextlib.contextmanager
def running_peer(options, scratch):
    with socket.create_server(("127.0.0.1", 0)) as free:
        number = free.getsockname()[1]
    log = scratch / "server.log"
    log.touch()
    environment = {k: v for k, v in os.environ.items() if not k.startswith("HB_")}
    environment |= {"HB_HOST": "127.0.0.1", "HB_PORT": str(number)}
    # It writes a line for each request: to where that costs least.
    out = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    command = [sys.executable, options.server]
    with running(command, env=environment, **out) as process:

        def port():
            with contextlib.suppress(OSError), socket.create_connection(
                ("127.0.0.1", number), 1
            ):
                return number

        yield process, started(PEER, process, port, log)


def measure(server, port, mode, seconds):
    command = ["wrk", "--threads", "1", "--connections", str(CONNECTIONS), "--latency"]
    command += ["--duration", f"{seconds}s"]
    if mode == CLOSED:
        command += ["--header", "Connection: close"]
    before = cpu_seconds(server)
    wrk = subprocess.run(
        [*command, f"http://127.0.0.1:{port}{TARGET}"],
        check=True,
        capture_output=True,
        text=True,
        timeout=seconds + 30,
    )
    used = cpu_seconds(server) - before
    time.sleep(0.2)
    text = wrk.stdout
    if server.poll() is not None or "Non-2xx" in text:
        raise Failure(f"the server failed:\n{text}")
    count = int(re.search(r"(\d+) requests in", text)[1])
    amount, unit = re.search(r"99%\s+([\d.]+)(us|ms|s)", text).groups()
    return {
        "rate": float(re.search(r"Requests/sec:\s+([\d.]+)", text)[1]),
        "p99": float(amount) * {"us": 1e-6, "ms": 1e-3, "s": 1}[unit],
        "cpu": used / count if count else None,
    }


def cpu_seconds(process):
    # As clock_getcpuclockid(3) names the clock of another process.
    return time.clock_gettime((~process.pid << 3) | 2)


def report(options, results):
    def median(mode, name, key):
        return statistics.median(found[key] for found in results[mode, name])

    print(
        f"`{TARGET}` over {CONNECTIONS} connections of wrk, {options.rounds} rounds of "
        f"{options.seconds} s each in turn, the median; {os.cpu_count()} processors, "
        "which wrk shares. The released server closes every connection.\n"
    )
    print(f"| connections | | {OURS} | {PEER} | ratio |")
    print("| --- | --- | ---: | ---: | ---: |")
    for mode in (KEPT, CLOSED):
        for title, key, unit, digits in (
            ("requests/s", "rate", 1, 0),
            ("p99 (ms)", "p99", 1e-3, 2),
            ("CPU per request (µs)", "cpu", 1e-6, 1),
        ):
            ours, peer = (median(mode, name, key) for name in (OURS, PEER))
            times = ours / peer if key == "rate" else peer / ours
            cells = [f"{value / unit:,.{digits}f}" for value in (ours, peer)]
            print(f"| {mode} | {title} | {cells[0]} | {cells[1]} | {times:.1f} |")
    print("\nBudgets:\n")
    for mode, least in BUDGETS.items():
        times = median(mode, OURS, "rate") / median(mode, PEER, "rate")
        verdict = "yes" if times >= least else "no"
        print(f"- {mode}: ≥ {least} × the peer's requests/s: {times:.1f}: {verdict}")
