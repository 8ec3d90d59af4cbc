"""Floods an agent's ports in one way, then prints what was sent and received as one line of JSON.

flood.py ATTACK SECONDS USAGE HEARTBEAT MONITOR SOURCES   ports, and the loopback addresses to connect from, separated by commas
flood.py serve BEHAVIOUR PORT                             a misbehaving server on the loopback, until standard input ends

Standard library only.
"""
import base64
import collections
import hashlib
import itertools
import json
import os
import random
import resource
import socket
import struct
import sys
import threading
import time

LINGER_RESET = struct.pack("ii", 1, 0)
IP_BIND_ADDRESS_NO_PORT = 24
UPGRADE = (
    "GET {} HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


class Target:
    def __init__(self, seconds, usage, heartbeat, monitor, sources):
        self.until = time.monotonic() + float(seconds)
        self.ports = {"usage": int(usage), "heartbeat": int(heartbeat), "monitor": int(monitor)}
        self.sources = itertools.cycle(sources.split(","))
        self.count = collections.Counter()

    def running(self):
        return time.monotonic() < self.until

    def running_until_rejected(self):
        """On a slow machine an attack goes on until the agent has rejected a connection."""
        return self.running() or (not self.rejected() and time.monotonic() < self.until + 20)

    def rejected(self):
        return self.count["503"] + self.count["closed"]

    def connect(self, port, timeout=0.5):
        """A socket, or None."""
        client = socket.socket()
        client.setsockopt(socket.SOL_IP, IP_BIND_ADDRESS_NO_PORT, 1)
        client.bind((next(self.sources), 0))
        client.settimeout(timeout)
        try:
            client.connect(("127.0.0.1", self.ports[port]))
        except OSError:
            self.count["not connected"] += 1
            client.close()
            return None
        self.count["connections"] += 1
        return client

    def send(self, client, data):
        """Whether all of it was sent. Counts the bytes that were."""
        view = memoryview(data)
        try:
            while view:
                sent = client.send(view)
                self.count["bytes"] += sent
                view = view[sent:]
            return True
        except OSError:
            return False

    def receive(self, client, timeout=1.0):
        """Counts the HTTP status, the code of a close frame, or the end of the connection. None if nothing came."""
        try:
            client.settimeout(timeout)
            data = client.recv(65536)
        except (BlockingIOError, TimeoutError):
            return None
        except OSError:
            data = b""
        if not data:
            self.count["closed"] += 1
        elif data.startswith(b"HTTP/1.1 "):
            self.count[data[9:12].decode()] += 1
        elif data[:1] == b"\x88" and len(data) >= 4:
            self.count["close %d" % struct.unpack(">H", data[2:4])] += 1
        return data

    def websocket(self, port):
        """An upgraded connection, or None."""
        client = self.connect(port)
        if client is None:
            return None
        self.send(client, UPGRADE.format("/" + port).encode())
        if (self.receive(client) or b"").startswith(b"HTTP/1.1 101"):
            return client
        client.close()
        return None


def frame(first, data):
    """A client's frame with a mask of 0."""
    length = len(data)
    if length < 126:
        return struct.pack(">BB", first, 0x80 | length) + b"\0\0\0\0" + data
    return struct.pack(">BBH", first, 0x80 | 126, length) + b"\0\0\0\0" + data


def in_parallel(target, *works):
    """Runs each in a process, because threads would share one interpreter lock."""
    pipes = []
    for work in works:
        reader, writer = os.pipe()
        if os.fork() == 0:
            target.count.clear()
            work()
            os.write(writer, json.dumps(target.count).encode())
            os._exit(0)
        os.close(writer)
        pipes.append(reader)
    for reader in pipes:
        with os.fdopen(reader, "rb") as pipe:
            target.count.update(json.loads(pipe.read() or b"{}"))


def on_each_port(target, work):
    in_parallel(target, *[lambda port=port: work(port) for port in target.ports])


def slow(target):
    """Heads and bodies at a byte every tenth of a second."""
    begin = {
        "usage": b"GET /usage HTTP/1.1\r\nHost: a\r\nX: ",
        "heartbeat": b"POST /hb_ping?1000&appid=slow HTTP/1.1\r\nHost: a\r\nContent-Length: 60000\r\n\r\n",
        "monitor": b"GET /monitor HTTP/1.1\r\nHost: a\r\nX: ",
    }

    def on(port):
        clients = []
        while target.running():
            while len(clients) < 200 and target.running():
                client = target.connect(port)
                if client and target.send(client, begin[port]):
                    clients.append(client)
            clients = [client for client in clients if target.send(client, b"a")]
            time.sleep(0.1)

    on_each_port(target, on)


def silent(target):
    """More connections than each port accepts, without a request."""

    def on(port):
        held = []
        limit = {"usage": 1400, "heartbeat": 12400, "monitor": 400}[port]
        while target.running_until_rejected():
            if len(held) < limit:
                client = target.connect(port)
                if client:
                    client.setblocking(False)
                    held.append(client)
                continue
            held = [client for client in held if target.receive(client, 0) is None]
            time.sleep(0.05)

    on_each_port(target, on)


def crowd(target):
    """Up to 16 000 connections with 4 KB of an unfinished head each."""

    def on(port):
        held = []
        while target.running():
            client = target.connect(port) if len(held) < 8000 else time.sleep(0.05)
            if client:
                target.send(client, b"GET /list HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 4000)
                held.append(client)

    in_parallel(target, lambda: on("usage"), lambda: on("heartbeat"))


def flood(target):
    """Connections at the highest rate, beyond the limits; the newest stay open."""

    def on(port):
        held = collections.deque()
        limit = {"usage": 1100, "heartbeat": 12100, "monitor": 300}[port]
        while target.running():
            client = target.connect(port)
            if client is None:
                continue
            target.send(client, b"GET /%s HTTP/1.1\r\nHost: a\r\n" % port.encode())
            held.append(client)
            if len(held) > limit:
                oldest = held.popleft()
                target.receive(oldest, 0)
                oldest.close()
        # On a slow machine the agent has not accepted the oldest ones yet when they are closed.
        while held and not target.rejected() and time.monotonic() < target.until + 20:
            target.receive(held[0], 0.1)
            held.rotate()

    on_each_port(target, on)


def resets(target):
    """Connections reset at once, within a head, and within a response."""
    requests = [
        b"",
        b"GET /us",
        b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /list HTTP/1.1\r\nHost: a\r\n\r\n",
        UPGRADE.format("/usage").encode() + frame(0x81, b"subscribe:usage"),
        UPGRADE.format("/monitor").encode(),
    ]

    def on(port):
        while target.running():
            client = target.connect(port)
            if client is None:
                continue
            target.send(client, random.choice(requests))
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RESET)
            client.close()
            target.count["resets"] += 1

    on_each_port(target, on)


def heads(target):
    """Heads that exceed a limit, and bytes that are no request."""
    requests = [
        b"GET /" + b"a" * (1 << 20),
        b"GET /usage HTTP/1.1\r\nHost: a\r\nX: " + b"a" * (1 << 20),
        b"GET /usage HTTP/1.1\r\nHost: a\r\n" + b"a: b\r\n" * 20000,
        b"POST /hb_ping?1000 HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551615\r\n\r\n" + b"a" * (1 << 20),
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n" + b"a" * (1 << 20),
        os.urandom(1 << 16),
        b"\r\n" * (1 << 16),
    ]

    def on(port):
        for request in itertools.cycle(requests):
            if not target.running():
                return
            client = target.connect(port)
            if client:
                target.send(client, request)
                target.receive(client, 0.2)
                client.close()

    on_each_port(target, on)


def frames(target):
    """Frames that are invalid, too long, or never end a message. Four thousand brackets once overflowed the stack."""
    sequences = [
        struct.pack(">BBQ", 0x81, 0xFF, (1 << 63) - 1) + b"\0\0\0\0" + b"a" * (1 << 20),
        frame(0x01, b"a" * 100) + frame(0x00, b"a" * 100) * 10000,
        frame(0x01, b"") + frame(0x00, b"") * 200000,
        frame(0x89, b"a" * 125) * 10000,
        frame(0xC1, os.urandom(100)) * 100,
        b"\x81\x05hello" * 1000,
        frame(0x82, b"a" * 60000) * 10,
        frame(0x81, b"\xff" * 100),
        frame(0x81, b"[" * 4000) * 1000,
        frame(0x81, b'{"id":1,"method":"ssh.start_monitor","params":[' + b'{"host":"' * 400) * 1000,
    ]

    def on(port):
        for sequence in itertools.cycle(sequences):
            if not target.running():
                return
            client = target.websocket(port)
            if client:
                client.settimeout(0.5)
                target.send(client, sequence)
                target.receive(client, 0.2)
                client.close()

    in_parallel(target, lambda: on("usage"), lambda: on("monitor"))


def unread(target):
    """Clients that send requests and never read a response."""

    def on(port, first, again, limit):
        held = []
        while target.running():
            if len(held) < limit:
                client = target.websocket(port) if first else target.connect(port)
                if client:
                    client.setblocking(False)
                    held.append(client)
                    target.send(client, first)
                continue
            # A send fails once the agent's buffers are full; the client stays as long as the connection does.
            held = [client for client in held if target.send(client, again) or is_open(client)]
            time.sleep(0.05)
        target.count["held"] += len(held)

    def is_open(client):
        try:
            client.send(b"")
            return True
        except BlockingIOError:
            return True
        except OSError:
            return False

    ping = frame(0x89, b"a" * 125)
    in_parallel(
        target,
        lambda: on("usage", frame(0x81, b"subscribe:detail"), ping, 300),
        lambda: on("usage", b"", b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n" * 20, 100),
        lambda: on("heartbeat", b"", b"GET /list HTTP/1.1\r\nHost: a\r\n\r\n" * 100, 300),
        lambda: on("monitor", frame(0x81, b'{"id":1,"method":"no","params":[]}'), ping, 100),
    )


def pipelined(target):
    """Three thousand requests a connection, whose responses are not read."""

    def on(port, request):
        while target.running():
            client = target.connect(port)
            if client is None:
                continue
            if target.send(client, request * 3000):
                target.count["requests"] += 3000
            client.close()

    in_parallel(
        target,
        lambda: on("usage", b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n"),
        lambda: on("heartbeat", b"GET /status HTTP/1.1\r\nHost: a\r\n\r\n"),
        lambda: on("heartbeat", b"GET /hb_ping?3600000&appid=b%d HTTP/1.1\r\nHost: a\r\n\r\n" % os.getpid()),
    )


ATTACKS = {attack.__name__: attack for attack in [slow, silent, flood, resets, heads, frames, unread, pipelined]}


def together(target):
    in_parallel(target, *[lambda attack=attack: attack(target) for attack in ATTACKS.values()])


def upgrade(client):
    request = b""
    while b"\r\n\r\n" not in request:
        part = client.recv(4096)
        if not part:
            raise OSError("closed")
        request += part
    key = request.split(b"Sec-WebSocket-Key: ")[1].split(b"\r\n")[0]
    accept = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
    head = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
    client.sendall(head + accept + b"\r\n\r\n")


def drip(client, data):
    for byte in data:
        client.sendall(bytes([byte]))
        time.sleep(0.1)


def repeat(client, data):
    while True:
        client.sendall(data)


def reset(client):
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RESET)


def upgraded(work):
    return lambda client: (upgrade(client), work(client))


def nested(client):
    welcome = b'{"type":"welcome","data":' + b"[" * 120 + b"]" * 120 + b"}"
    for text in [b"[" * 10000, b'{"id":' * 10000, welcome] * 50:
        client.sendall(struct.pack(">BBH", 0x81, 126, len(text)) + text)
    time.sleep(3600)


def giant_frame(client):
    client.sendall(struct.pack(">BBQ", 0x81, 127, (1 << 63) - 1))
    repeat(client, b"a" * 65536)


def fragments(part):
    def send(client):
        client.sendall(b"\x01" + part)
        repeat(client, (b"\x00" + part) * 10000)

    return send


SWITCHING = b"HTTP/1.1 101 Switching Protocols\r\nX: "
SERVERS = {
    "nested": upgraded(nested),
    "silent": lambda client: time.sleep(3600),
    "close": lambda client: None,
    "reset": reset,
    "drip": lambda client: drip(client, SWITCHING + b"a" * 10000),
    "endless_head": lambda client: repeat(client, SWITCHING + b"a" * 65536),
    "giant_frame": upgraded(giant_frame),
    "long_message": upgraded(lambda client: repeat(client, struct.pack(">BBQ", 0x81, 127, 4000000) + b"a" * 4000000)),
    "fragments": upgraded(fragments(b"\x01a")),
    "empty_fragments": upgraded(fragments(b"\x00")),
    "pings": upgraded(lambda client: repeat(client, b"\x89\x7d" + b"a" * 125)),
    "compressed": upgraded(lambda client: repeat(client, b"\xc1\x7d" + os.urandom(125))),
    "drip_frame": upgraded(lambda client: drip(client, struct.pack(">BBH", 0x81, 126, 60000) + b"a" * 60000)),
    "unread": upgraded(lambda client: time.sleep(3600)),
}


def serve(behaviour, port):
    count = collections.Counter()
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", int(port)))
    listener.listen(100)

    def handle(client):
        try:
            SERVERS[behaviour](client)
        except OSError:
            pass
        client.close()

    def accept():
        while True:
            client, _ = listener.accept()
            count["connections"] += 1
            threading.Thread(target=handle, args=(client,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    print("ready", flush=True)
    sys.stdin.read()
    print(json.dumps(count), flush=True)
    os._exit(0)


if __name__ == "__main__":
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if sys.argv[1] == "serve":
        serve(*sys.argv[2:])
    target = Target(*sys.argv[2:])
    (ATTACKS | {"crowd": crowd, "together": together})[sys.argv[1]](target)
    print(json.dumps(target.count), flush=True)
    os._exit(0)
