"""The agent and its peers: where their programs come from, and each of them running."""

import contextlib
import itertools
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

from tools import (
    REPOSITORY,
    Failure,
    Missing,
    found,
    free_port,
    listens,
    running,
    say,
    started,
)

# The document's handler takes (websocket, path), which websockets 14 no longer passes. GPUtil is what it requires for
# GPU readings; that needs distutils, which Python 3.12 has dropped and setuptools still brings.
PACKAGES = ["websockets==13.1", "psutil==7.2.2", "GPUtil==1.4.0", "setuptools<81"]
LISTENING = '"0.0.0.0", 33931'


class Server:
    """A process that listens."""

    def __init__(self, process, port, heartbeat=None):
        self.process, self.pid = process, process.pid
        self.port, self.heartbeat = port, heartbeat


class Servers:
    """All that can be started, each with a directory of its own below `scratch`."""

    def __init__(self, options, scratch):
        self.options, self.scratch = options, scratch
        self.numbers = itertools.count()
        metadata = cargo("metadata", "--format-version", "1", "--no-deps")
        self.target = Path(json.loads(metadata)["target_directory"])
        say("packaging/build-static")
        built = subprocess.run(
            [REPOSITORY / "packaging/build-static"], check=True, stdout=subprocess.PIPE
        )
        self.program = Path(built.stdout.decode().strip())

    def directory(self):
        path = self.scratch / str(next(self.numbers))
        path.mkdir()
        return path

    @contextlib.contextmanager
    def agent(self, *settings, environment=None):
        """As it is by default, but for its ports, its state, and these settings."""
        directory = self.directory()
        (directory / "hm-agent.toml").touch()
        log = directory / "log"
        command = [self.program, "-c", directory / "hm-agent.toml"]
        own = ("usage.listen=127.0.0.1:0", "heartbeat.listen=127.0.0.1:0", f"state_dir={directory}")
        for setting in own + settings:
            command += ["-s", setting]
        plain = {key: value for key, value in os.environ.items() if not key.startswith("HM_AGENT_")}
        plain |= environment or {}
        with log.open("w") as err, running(command, env=plain, stderr=err) as process:

            def ports():
                text = log.read_text()
                at = [
                    re.search(rf"{name} listening on \S+:(\d+)", text)
                    for name in ("usage", "heartbeat")
                ]
                return all(at) and [int(each[1]) for each in at]

            yield Server(process, *started(process, log, ports))

    @contextlib.contextmanager
    def listening(self, command, port, **options):
        """Anything else."""
        log = self.directory() / "log"
        with log.open("w") as err, running(
            command, stdout=subprocess.DEVNULL, stderr=err, **options
        ) as process:
            yield Server(process, started(process, log, lambda: listens(port) and port))

    @contextlib.contextmanager
    def silent(self, command):
        """What listens nowhere."""
        log = self.directory() / "log"
        with log.open("w") as err, running(
            command, stdout=subprocess.DEVNULL, stderr=err
        ) as process:
            time.sleep(1)
            if process.poll() is not None:
                raise Failure(f"{command[0]} did not start:\n{log.read_text()[-2000:]}")
            yield Server(process, None)

    def node_exporter(self, *arguments):
        port = free_port()
        program = found("prometheus-node-exporter")
        command = [program, f"--web.listen-address=127.0.0.1:{port}", "--log.level=error"]
        return self.listening(command + list(arguments), port)

    def document_server(self):
        """The Python server of the /usage protocol's document."""
        port, script = free_port(), self.directory() / "server.py"
        source = document_source(self.options.document)
        script.write_text(source.replace(LISTENING, LISTENING.replace("33931", str(port))))
        return self.listening([self.python(), script], port)

    def heartbeat_server(self):
        """The released one."""
        if not self.options.server:
            raise Missing("give server/heartbeat.py of hilbert-heartbeat 1.0.0: --server FILE")
        port = free_port()
        environment = {key: value for key, value in os.environ.items() if not key.startswith("HB_")}
        environment |= {"HB_HOST": "127.0.0.1", "HB_PORT": str(port)}
        return self.listening([sys.executable, self.options.server], port, env=environment)

    def python(self):
        """A Python with what the document's server requires, made once."""
        environment = self.target / "bench-peer"
        python, complete = environment / "bin/python", environment / "packages"
        wanted = " ".join(PACKAGES)
        if not complete.exists() or complete.read_text() != wanted:
            say("the packages of the document's server")
            subprocess.run([sys.executable, "-m", "venv", "--clear", environment], check=True)
            subprocess.run([python, "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
            complete.write_text(wanted)
        return python

    def load(self):
        """The load generator."""
        cargo("build", "--locked", "--release", "--example", "usage-load")
        return self.target / "release/examples/usage-load"

    def fake_nvml(self):
        """A driver's library whose GPUs follow a script."""
        library = self.target / "bench/libnvidia-ml.so.1"
        library.parent.mkdir(parents=True, exist_ok=True)
        sources = sorted((REPOSITORY / "tests/fake-nvml").glob("*.c"))
        flags = ["-shared", "-fPIC", "-O1", "-pthread", "-Wl,-z,nodelete"]
        subprocess.run([found("cc", "gcc"), *flags, "-o", library, *sources], check=True)
        return library

    def test(self, name, test, **variables):
        """What a test measures, with this agent: the JSON behind `bench ` in what it prints."""
        command = ["cargo", "test", "--locked", "--test", name, "--", "--include-ignored"]
        command += ["--nocapture", "--exact", test]
        say(" ".join(command))
        environment = os.environ | {"HM_TEST_AGENT": str(self.program)} | variables
        done = subprocess.run(
            command, cwd=REPOSITORY, env=environment, capture_output=True, text=True
        )
        lines = re.findall(r"^bench (\{.*\})$", done.stdout, re.M)
        if done.returncode or not lines:
            raise Failure(f"{' '.join(command)}:\n{(done.stdout + done.stderr)[-3000:]}")
        return [json.loads(line) for line in lines]


def cargo(*arguments):
    say("cargo " + " ".join(arguments))
    command = ["cargo", *arguments]
    return subprocess.run(command, cwd=REPOSITORY, check=True, stdout=subprocess.PIPE).stdout


def document_source(document):
    """The server in the document."""
    try:
        text = document.read_text()
    except OSError as error:
        raise Missing(f"give the /usage protocol's text: --document FILE ({error.strerror})")
    block = re.search(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    if not block or block[1].count(LISTENING) != 1:
        raise Failure(f"{document} has no Python server on {LISTENING}")
    return block[1]
