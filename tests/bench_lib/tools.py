"""What every measurement uses: processes that end with this program, their clocks, memory, threads and files."""

import contextlib
import os
import re
import resource
import shutil
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent.parent
START_SECONDS = 15


class Failure(Exception):
    """Something could not be run."""


class Missing(Exception):
    """What a measurement needs is not here; the table says so."""


def say(text):
    print(text, file=sys.stderr, flush=True)


def found(program, package=None):
    """Where a program is; packages put some where only root looks."""
    path = shutil.which(program, path=os.environ["PATH"] + ":/usr/sbin:/sbin")
    if not path:
        raise Missing(f"not installed: apt-get install {package or program}")
    return path


def raise_descriptor_limit(descriptors):
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most != resource.RLIM_INFINITY and most < descriptors:
        raise Failure(f"{descriptors} open files are more than `ulimit -Hn` allows, {most}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


@contextlib.contextmanager
def running(command, **options):
    process = subprocess.Popen([str(part) for part in command], **options)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def started(process, log, port):
    """What `port` finds, as soon as it does."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        if result := port():
            return result
        time.sleep(0.001)
    raise Failure(f"{process.args[0]} did not start:\n{log.read_text()[-2000:]}")


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


def listens(port):
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True


def cpu_seconds(pid):
    """User and system time of a process, as clock_getcpuclockid(3) names its clock: /proc/PID/stat cuts to 10 ms."""
    return time.clock_gettime((~pid << 3) | 2)


def cpu_of_all():
    """Of all processes together."""
    user, nice, system, _, _, irq, softirq, steal = map(
        int, Path("/proc/stat").read_text().split(maxsplit=9)[1:9]
    )
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def available_bytes():
    """What is left: threads and sockets also cost the kernel, and no RSS shows it."""
    text = Path("/proc/meminfo").read_text()
    return int(re.search(r"^MemAvailable:\s+(\d+) kB", text, re.M)[1]) * 1024


def footprint(pid):
    """Bytes of memory, threads, open files."""
    status = Path(f"/proc/{pid}/status").read_text()
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()

    def kilobytes(text, name):
        return int(re.search(rf"^{name}:\s+(\d+) kB", text, re.M)[1]) * 1024

    return {
        "rss": kilobytes(status, "VmRSS"),
        "pss": kilobytes(rollup, "Pss"),
        "own": kilobytes(status, "RssAnon"),
        "threads": int(re.search(r"^Threads:\s+(\d+)", status, re.M)[1]),
        "files": len(os.listdir(f"/proc/{pid}/fd")),
    }


def family(pid):
    """A process and all below it."""
    children = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            children += map(int, (task / "children").read_text().split())
    return [pid] + [each for child in children for each in family(child)]


def per(amount, count):
    return amount / count if count else None


def median(values):
    values = [value for value in values if value is not None]
    return statistics.median(values) if values else None


class Line:
    """A connection that stays open, to ask on."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), 30)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.rest = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def get(self, target, headers=""):
        """The head in small letters, and the body as it came."""
        request = f"GET {target} HTTP/1.1\r\nHost: a\r\n{headers}\r\n"
        self.socket.sendall(request.encode())
        while b"\r\n\r\n" not in self.rest:
            self.hear()
        head, self.rest = self.rest.split(b"\r\n\r\n", 1)
        head = head.decode().lower()
        if not re.match(r"http/1.1 200 ", head):
            raise Failure(f"{target}: {head}")
        length = re.search(r"\r\ncontent-length: (\d+)", head)
        if length:
            while len(self.rest) < int(length[1]):
                self.hear()
            end = int(length[1])
        else:
            if "transfer-encoding: chunked" not in head:
                raise Failure(f"{target}: no length: {head}")
            while not self.rest.endswith(b"\r\n0\r\n\r\n"):
                self.hear()
            end = len(self.rest)
        body, self.rest = self.rest[:end], self.rest[end:]
        return head, body

    def hear(self):
        part = self.socket.recv(1 << 18)
        if not part:
            raise Failure("the server closed the connection")
        self.rest += part
