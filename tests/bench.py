"""Measures the agent's /usage against the Python server in the protocol's document.

Both run on this machine, one after the other and fresh for every number of subscribers,
under the same load (tests/load/usage.rs), which offers compression as browsers do. Prints
a Markdown table, and which budgets are kept. The exit code says whether everything ran,
not whether the budgets are kept.
"""

import argparse
import contextlib
import json
import os
import platform
import re
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import bench_report
from bench_report import OURS, PEER

REPOSITORY = Path(__file__).resolve().parent.parent
DOCUMENT = REPOSITORY / "../shared/specs/usage.md"
# That of the document's server.
INTERVAL_SECONDS = 10
CONNECT_LIMIT_SECONDS = 60
SETTLE_SECONDS = 2
START_SECONDS = 15
# The document's handler takes (websocket, path), which websockets 14 no longer passes.
WEBSOCKETS = "13.1"
LISTENING = '"0.0.0.0", 33931'


class Failure(Exception):
    """Something could not be run."""


def main():
    if sys.argv[1:2] == ["heartbeat"]:
        import bench_heartbeat

        return bench_heartbeat.main(sys.argv[2:])
    options = arguments()
    # So that the children end with this program.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        raise_descriptor_limit(max(options.subscribers))
        with tempfile.TemporaryDirectory(prefix="hm-agent-bench-") as scratch:
            results = measure_all(options, Path(scratch))
    except (Failure, subprocess.CalledProcessError, OSError) as failure:
        sys.exit(f"tests/bench: {failure}")
    bench_report.print_all(options, results, INTERVAL_SECONDS)


def arguments():
    def counts(text):
        return sorted({int(count) for count in text.split(",")})

    parser = argparse.ArgumentParser(
        prog="tests/bench", description=__doc__.split("\n")[0]
    )
    surfaces = ["usage", "heartbeat"]
    parser.add_argument("surface", nargs="?", choices=surfaces, default="usage")
    parser.add_argument("--subscribers", type=counts, default=[1, 200, 1000, 10000])
    parser.add_argument(
        "--seconds", type=int, default=60, help="window of each measurement"
    )
    parser.add_argument(
        "--document", type=Path, default=DOCUMENT, help="the /usage protocol's text"
    )
    gputil = "the peer with GPUtil, which the document requires for GPU readings"
    parser.add_argument("--gputil", action="store_true", help=gputil)
    parser.add_argument("--skip-peer", action="store_true")
    options = parser.parse_args()
    if options.subscribers[0] < 1:
        parser.error("--subscribers must be at least 1")
    if options.seconds < 3 * INTERVAL_SECONDS:
        parser.error(
            f"--seconds must be at least {3 * INTERVAL_SECONDS}, three intervals"
        )
    return options


def raise_descriptor_limit(subscribers):
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most != resource.RLIM_INFINITY and most < subscribers + 100:
        raise Failure(
            f"{subscribers} subscribers need more than the {most} files of `ulimit -Hn`"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def measure_all(options, scratch):
    """Results by number of subscribers and server."""
    source = None if options.skip_peer else peer_source(options.document)
    target = build_directory()
    agent, load = build_agent(target), build_load(target)
    python = None if options.skip_peer else peer_python(target, options.gputil)
    results = {}
    for count in options.subscribers:
        say(f"{count} subscribers: {OURS}")
        with running_agent(agent, scratch) as (process, port):
            found = measure(process, load, port, "grid", count, options.seconds)
            results[count, OURS] = found
        if python:
            say(f"{count} subscribers: {PEER}")
            with running_peer(python, source, scratch) as (process, port):
                found = measure(process, load, port, "own", count, options.seconds)
                results[count, PEER] = found
    return results


def say(text):
    print(text, file=sys.stderr, flush=True)


# What is measured with what


def cargo(*arguments):
    say("cargo " + " ".join(arguments))
    command = ["cargo", *arguments]
    return subprocess.run(
        command, cwd=REPOSITORY, check=True, stdout=subprocess.PIPE
    ).stdout


def build_directory():
    metadata = cargo("metadata", "--format-version", "1", "--no-deps")
    return Path(json.loads(metadata)["target_directory"])


def build_agent(target):
    triple = f"{platform.machine()}-unknown-linux-musl"
    command = ["rustup", "target", "list", "--installed"]
    # Without rustup the toolchain is the distribution's: cargo says what it lacks.
    with contextlib.suppress(FileNotFoundError):
        installed = subprocess.run(
            command, check=True, capture_output=True, text=True
        ).stdout
        if triple not in installed.split():
            subprocess.run(["rustup", "target", "add", triple], check=True)
    cargo("build", "--release", "--target", triple)
    return target / triple / "release/hm-agent"


def build_load(target):
    cargo("build", "--release", "--example", "usage-load")
    return target / "release/examples/usage-load"


def peer_source(document):
    """The server in the document, which is given its port later."""
    try:
        text = document.read_text()
    except OSError as error:
        hint = "pass the protocol's text with --document, or --skip-peer"
        raise Failure(f"cannot read {document}: {error.strerror}; {hint}") from error
    block = re.search(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    if not block or block[1].count(LISTENING) != 1:
        raise Failure(
            f"{document} has no Python server on {LISTENING}; pass another --document"
        )
    return block[1]


def peer_python(target, gputil):
    """A Python with the packages that the document requires, made once."""
    packages = [f"websockets=={WEBSOCKETS}", "psutil==7.2.2"]
    if gputil:
        # It needs distutils, which Python 3.12 has dropped and setuptools still brings.
        packages += ["GPUtil==1.4.0", "setuptools<81"]
    environment = target / ("bench-peer-gputil" if gputil else "bench-peer")
    python, complete = environment / "bin/python", environment / "packages"
    wanted = " ".join(packages)
    if complete.exists() and complete.read_text() == wanted:
        return python
    subprocess.run([sys.executable, "-m", "venv", "--clear", environment], check=True)
    subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
    complete.write_text(wanted)
    return python


@contextlib.contextmanager
def running(command, **options):
    process = subprocess.Popen(command, **options)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def running_agent(agent, scratch):
    """The agent as it is by default, but for its ports, its interval and its limits."""
    settings, log = scratch / "hm-agent.toml", scratch / "hm-agent.log"
    settings.touch()
    command = [agent, "-c", settings]
    for setting in (
        "usage.listen=127.0.0.1:0",
        "heartbeat.listen=127.0.0.1:0",
        f"interval={INTERVAL_SECONDS}",
        "usage.max_connections=0",
        "usage.max_connections_per_ip=0",
        f"state_dir={scratch}",
    ):
        command += ["-s", setting]
    plain = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith("HM_AGENT_")
    }
    with log.open("w") as stderr, running(command, env=plain, stderr=stderr) as process:

        def port():
            found = re.search(r"usage listening on \S+:(\d+)", log.read_text())
            return int(found[1]) if found else None

        yield process, started(OURS, process, port, log)


@contextlib.contextmanager
def running_peer(python, source, scratch):
    with socket.create_server(("127.0.0.1", 0)) as free:
        number = free.getsockname()[1]
    script, log = scratch / "server.py", scratch / "server.log"
    script.write_text(
        source.replace(LISTENING, LISTENING.replace("33931", str(number)))
    )
    out = subprocess.DEVNULL
    with log.open("w") as err, running(
        [python, script], stdout=out, stderr=err
    ) as process:

        def port():
            with contextlib.suppress(OSError), socket.create_connection(
                ("127.0.0.1", number), 1
            ):
                return number

        yield process, started(PEER, process, port, log)


def started(name, process, port, log):
    """The port, as soon as `port` finds it."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        if found := port():
            return found
        time.sleep(0.02)
    raise Failure(
        f"{name} did not start within {START_SECONDS} s:\n{log.read_text()[-2000:]}"
    )


# Measuring


def measure(server, load, port, schedule, subscribers, seconds):
    time.sleep(SETTLE_SECONDS)
    idle, free = memory_bytes(server.pid), available_bytes()
    command = [load, f"127.0.0.1:{port}", "--hold", "--deflate", "--schedule", schedule]
    command += ["--subscribers", str(subscribers), "--interval", str(INTERVAL_SECONDS)]
    command += [
        "--seconds",
        str(seconds),
        "--connect-limit",
        str(CONNECT_LIMIT_SECONDS),
    ]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with running(command, **pipes) as generator:
        watchdog = threading.Timer(CONNECT_LIMIT_SECONDS + seconds + 60, generator.kill)
        watchdog.start()
        try:
            if not generator.stdout.readline().startswith(b"ready "):
                raise Failure("the load generator failed")
            before = cpu_seconds(server, generator)
            time.sleep(seconds)
            after = cpu_seconds(server, generator)
            line = generator.stdout.readline()
            # After the window: walking thousands of mappings would disturb it.
            loaded, left = memory_bytes(server.pid), available_bytes()
        finally:
            watchdog.cancel()
    if not line or server.poll() is not None:
        raise Failure("the server or the load generator ended early")
    result = json.loads(line)
    result["cpu"], result["load_cpu"], result["other_cpu"] = (
        b - a for a, b in zip(before, after)
    )
    result["idle"], result["loaded"] = idle, loaded
    # What connections that the server has closed meanwhile still take is unknown.
    held = 0 if result["closed_by_server"] else result["connected"]
    result["each"] = [per(b - a, held) for a, b in zip(idle, loaded)]
    # Everything else on the machine takes and frees tens of megabytes meanwhile.
    result["machine_each"] = per(free - left, held if held >= 5000 else 0)
    result["cpu_each"] = per(result["cpu"], result["updates_received"])
    result["load_cpu_each"] = per(result["load_cpu"], result["updates_received"])
    return result


def per(amount, count):
    return amount / count if count else None


def cpu_seconds(server, generator):
    """User and system time of both, and what everything else has used."""
    # The clock of another process, as clock_getcpuclockid(3) names it. It is utime and
    # stime of /proc/PID/stat in full: those are cut to 10 ms, and a minute of one
    # subscriber costs less.
    ours = [
        time.clock_gettime((~process.pid << 3) | 2) for process in (server, generator)
    ]
    user, nice, system, _, _, irq, softirq, steal = map(
        int, Path("/proc/stat").read_text().split(maxsplit=9)[1:9]
    )
    busy = (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
    return *ours, busy - sum(ours)


def available_bytes():
    """What is left: threads and sockets also cost the kernel, and no RSS shows it."""
    text = Path("/proc/meminfo").read_text()
    return int(re.search(r"^MemAvailable:\s+(\d+) kB", text, re.M)[1]) * 1024


def memory_bytes(pid):
    """VmRSS and Pss."""
    status = Path(f"/proc/{pid}/status").read_text()
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    lines = (status, r"^VmRSS:\s+(\d+) kB"), (rollup, r"^Pss:\s+(\d+) kB")
    return [int(re.search(line, text, re.M)[1]) * 1024 for text, line in lines]


if __name__ == "__main__":
    main()
