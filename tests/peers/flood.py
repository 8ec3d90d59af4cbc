"""Attacks an agent in one way, and then says what was done, as a line of JSON.

siege.py ATTACK SECONDS HOST USAGE HEARTBEAT MONITOR SOURCES     ports; addresses to come from, with commas between
siege.py serve BEHAVIOUR PORT                                    a server that means harm; BEHAVIOUR "all": in turn

Attacks that end in another way than with time say "ready" and wait for standard input to end. Standard library only.
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
    def __init__(self, seconds, host, usage, heartbeat, monitor, sources):
        self.until = time.monotonic() + float(seconds)
        self.host = host
        self.ports = {"usage": int(usage), "heartbeat": int(heartbeat), "monitor": int(monitor)}
        self.sources = itertools.cycle(sources.split(","))
        self.count = collections.Counter()

    def goes_on(self):
        return time.monotonic() < self.until

    def is_let_in(self):
        """The same, and on a slow machine until somebody was refused."""
        refused = self.count["503"] + self.count["sent away"]
        return self.goes_on() or (not refused and time.monotonic() < self.until + 20)

    def connect(self, port, timeout=0.5):
        """None: nobody answers, which is counted."""
        client = socket.socket()
        client.setsockopt(socket.SOL_IP, IP_BIND_ADDRESS_NO_PORT, 1)
        client.bind((next(self.sources), 0))
        client.settimeout(timeout)
        try:
            client.connect((self.host, self.ports[port]))
        except OSError:
            self.count["not connected"] += 1
            client.close()
            return None
        self.count["connections"] += 1
        return client

    def send(self, client, data):
        """Whether all of it went; only what did counts."""
        view = memoryview(data)
        try:
            while view:
                sent = client.send(view)
                self.count["bytes"] += sent
                view = view[sent:]
            return True
        except OSError:
            return False

    def answer(self, client, timeout=1.0):
        """Counts the status of an answer, the code of a close frame, or an end without a word; None: nothing came."""
        try:
            client.settimeout(timeout)
            data = client.recv(65536)
        except (BlockingIOError, TimeoutError):
            return None
        except OSError:
            data = b""
        if not data:
            self.count["sent away"] += 1
        elif data.startswith(b"HTTP/1.1 "):
            self.count[data[9:12].decode()] += 1
        elif data[:1] == b"\x88" and len(data) >= 4:
            self.count["close %d" % struct.unpack(">H", data[2:4])] += 1
        return data

    def open_socket(self, port):
        """A WebSocket, or None."""
        client = self.connect(port)
        if client is None:
            return None
        self.send(client, UPGRADE.format("/" + port).encode())
        if (self.answer(client) or b"").startswith(b"HTTP/1.1 101"):
            return client
        client.close()
        return None


def frame(first, data):
    """A client's frame; the mask is 0."""
    length = len(data)
    if length < 126:
        head = struct.pack(">BB", first, 0x80 | length)
    else:
        head = struct.pack(">BBH", first, 0x80 | 126, length)
    return head + b"\0\0\0\0" + data


def at_the_same_time(target, *works):
    """Each in a process of its own, so that one interpreter's lock does not slow the others."""
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
    at_the_same_time(target, *[lambda port=port: work(port) for port in target.ports])


def slow(target):
    """Heads and bodies, a byte every tenth of a second."""
    begin = {
        "usage": b"GET /usage HTTP/1.1\r\nX: ",
        "heartbeat": b"POST /hb_ping?1000&appid=slow HTTP/1.1\r\nContent-Length: 60000\r\n\r\n",
        "monitor": b"GET /monitor HTTP/1.1\r\nX: ",
    }

    def on(port):
        clients = []
        while target.goes_on():
            while len(clients) < 200 and target.goes_on():
                client = target.connect(port)
                if client and target.send(client, begin[port]):
                    clients.append(client)
            clients = [client for client in clients if target.send(client, b"a")]
            time.sleep(0.1)

    on_each_port(target, on)


def silent(target):
    """As many connections as the agent lets in, and more; they say nothing."""

    def on(port):
        held = []
        most = {"usage": 1400, "heartbeat": 12400, "monitor": 400}[port]
        while target.is_let_in():
            if len(held) < most:
                client = target.connect(port)
                if client:
                    client.setblocking(False)
                    held.append(client)
                continue
            held = [client for client in held if target.answer(client, 0) is None]
            time.sleep(0.05)

    on_each_port(target, on)


def crowd(target):
    """As many connections as there can be on two ports, each with a request that never ends."""

    def on(port):
        held = []
        while target.goes_on():
            if len(held) < 8000:
                client = target.connect(port)
                if client:
                    target.send(client, b"GET /list HTTP/1.1\r\nX: " + b"a" * 4000)
                    held.append(client)
            else:
                time.sleep(0.05)

    at_the_same_time(target, lambda: on("usage"), lambda: on("heartbeat"))


def flood(target):
    """Past the caps as fast as it goes: the youngest hold on."""
    begin = {
        "usage": b"GET /usage HTTP/1.1\r\n",
        "heartbeat": b"GET /list HTTP/1.1\r\n",
        "monitor": b"GET /monitor HTTP/1.1\r\n",
    }

    def on(port):
        held = collections.deque()
        most = {"usage": 1100, "heartbeat": 12100, "monitor": 300}[port]
        while target.is_let_in():
            client = target.connect(port)
            if client is None:
                continue
            target.send(client, begin[port])
            held.append(client)
            if len(held) > most:
                oldest = held.popleft()
                target.answer(oldest, 0)
                oldest.close()

    on_each_port(target, on)


def resets(target):
    """Connections that end with a reset: at once, in the middle of a head, in the middle of an answer."""
    words = [
        b"",
        b"GET /us",
        b"GET /metrics HTTP/1.1\r\n\r\n",
        b"GET /list HTTP/1.1\r\n\r\n",
        UPGRADE.format("/usage").encode() + frame(0x81, b"subscribe:usage"),
        UPGRADE.format("/monitor").encode(),
    ]

    def on(port):
        while target.goes_on():
            client = target.connect(port)
            if client is None:
                continue
            target.send(client, random.choice(words))
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RESET)
            client.close()
            target.count["resets"] += 1

    on_each_port(target, on)


def heads(target):
    """Heads that are too long in every way."""
    bombs = [
        b"GET /" + b"a" * (1 << 20),
        b"GET /usage HTTP/1.1\r\nX: " + b"a" * (1 << 20),
        b"GET /usage HTTP/1.1\r\n" + b"a: b\r\n" * 20000,
        b"POST /hb_ping?1000 HTTP/1.1\r\nContent-Length: 18446744073709551615\r\n\r\n" + b"a" * (1 << 20),
        b"GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n" + b"a" * (1 << 20),
        os.urandom(1 << 16),
        b"\r\n" * (1 << 16),
    ]

    def on(port):
        for bomb in itertools.cycle(bombs):
            if not target.goes_on():
                return
            client = target.connect(port)
            if client:
                target.send(client, bomb)
                target.answer(client, 0.2)
                client.close()

    on_each_port(target, on)


def frames(target):
    """What is no message, or too much of one."""
    announced = struct.pack(">BBQ", 0x81, 0xFF, (1 << 63) - 1) + b"\0\0\0\0"
    bombs = [
        announced + b"a" * (1 << 20),
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
        for bomb in itertools.cycle(bombs):
            if not target.goes_on():
                return
            client = target.open_socket(port)
            if client:
                client.settimeout(0.5)
                target.send(client, bomb)
                target.count["bombs"] += 1
                target.answer(client, 0.2)
                client.close()

    at_the_same_time(target, lambda: on("usage"), lambda: on("monitor"))


def deaf(target):
    """Clients that ask and never read."""

    def ask_on(port, first, again, most):
        held = []
        while target.goes_on():
            if len(held) < most:
                client = target.open_socket(port) if first else target.connect(port)
                if client:
                    client.setblocking(False)
                    held.append(client)
                    target.send(client, first)
                continue
            # It goes until the agent's buffers are full.
            held = [client for client in held if target.send(client, again) or not is_over(client)]
            time.sleep(0.05)
        target.count["held"] += len(held)

    def is_over(client):
        try:
            return client.send(b"") is None
        except BlockingIOError:
            return False
        except OSError:
            return True

    subscribe = frame(0x81, b"subscribe:detail")
    at_the_same_time(
        target,
        lambda: ask_on("usage", subscribe, frame(0x89, b"a" * 125), 300),
        lambda: ask_on("usage", b"", b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n" * 20, 100),
        lambda: ask_on("heartbeat", b"", b"GET /list HTTP/1.1\r\nHost: a\r\n\r\n" * 100, 300),
        lambda: ask_on("monitor", frame(0x81, b'{"id":1,"method":"no","params":[]}'), frame(0x89, b"a" * 125), 100),
    )


def pipelined(target):
    """Requests without end on connections that read nothing for long, and then all."""

    def on(port, request):
        while target.goes_on():
            client = target.connect(port)
            if client is None:
                continue
            if target.send(client, request * 3000):
                target.count["requests"] += 3000
            client.close()

    at_the_same_time(
        target,
        lambda: on("usage", b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n"),
        lambda: on("heartbeat", b"GET /status HTTP/1.1\r\nHost: a\r\n\r\n"),
        lambda: on("heartbeat", b"GET /hb_ping?3600000&appid=b%d HTTP/1.1\r\nHost: a\r\n\r\n" % os.getpid()),
    )


def half_open(target):
    """The first packet of connections that nobody will hear of again: what is answered is lost on the way."""
    held = []
    for port in list(target.ports) * 4000:
        client = socket.socket()
        client.bind((next(target.sources), 0))
        client.setblocking(False)
        client.connect_ex((target.host, target.ports[port]))
        held.append(client)
        target.count["begun"] += 1
    print("ready", flush=True)
    sys.stdin.read()


def vanish(target):
    """Clients of each kind, as many as there may be, whose network is cut then."""
    held = []
    subscribe = UPGRADE.format("/usage").encode() + frame(0x81, b"subscribe:usage")
    kinds = [
        ("usage", subscribe, 500),
        ("usage", b"GET /us", 400),
        ("usage", b"", 300),
        ("heartbeat", b"", 12200),
        ("monitor", b"", 300),
    ]
    if target.until - time.monotonic() > 3:
        # It takes a minute until the agent knows of these.
        kinds[3:3] = [
            ("heartbeat", b"GET /hb_ping?1800000&appid=gone HTTP/1.1\r\n\r\n", 1000),
            ("monitor", UPGRADE.format("/monitor").encode(), 100),
        ]
    for port, words, number in kinds:
        for _ in range(number):
            client = target.connect(port)
            if client:
                target.send(client, words)
                held.append(client)
    print("ready", flush=True)
    sys.stdin.read()


ATTACKS = [slow, silent, flood, resets, heads, frames, deaf, pipelined]


def everything(target):
    at_the_same_time(target, *[lambda attack=attack: attack(target) for attack in ATTACKS])


def accept_key(request):
    key = request.split(b"Sec-WebSocket-Key: ")[1].split(b"\r\n")[0]
    return base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())


def upgraded(client):
    request = b""
    while b"\r\n\r\n" not in request:
        part = client.recv(4096)
        if not part:
            raise OSError("it ended")
        request += part
    answer = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
    client.sendall(answer + accept_key(request) + b"\r\n\r\n")


def drip(client, data, pause=0.1):
    for byte in data:
        client.sendall(bytes([byte]))
        time.sleep(pause)


def without_end(client, data):
    while True:
        client.sendall(data)


def serve_nested(client):
    upgraded(client)
    for text in [b"[" * 10000, b'{"id":' * 10000, b'{"type":"welcome","data":' + b"[" * 120 + b"]" * 120 + b"}"] * 50:
        client.sendall(struct.pack(">BBH", 0x81, 126, len(text)) + text)
    time.sleep(3600)


def serve_silent(client):
    time.sleep(3600)


def serve_close(client):
    client.close()


def serve_reset(client):
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RESET)
    client.close()


def serve_drip(client):
    drip(client, b"HTTP/1.1 101 Switching Protocols\r\nX: " + b"a" * 10000)


def serve_endless_head(client):
    without_end(client, b"HTTP/1.1 101 Switching Protocols\r\n" + b"X: " + b"a" * 65536)


def serve_giant_frame(client):
    upgraded(client)
    client.sendall(struct.pack(">BBQ", 0x81, 127, (1 << 63) - 1))
    without_end(client, b"a" * 65536)


def serve_long_message(client):
    upgraded(client)
    without_end(client, struct.pack(">BBQ", 0x81, 127, 4000000) + b"a" * 4000000)


def serve_fragments(client):
    upgraded(client)
    client.sendall(b"\x01\x01a")
    without_end(client, b"\x00\x01a" * 10000)


def serve_empty_fragments(client):
    upgraded(client)
    client.sendall(b"\x01\x00")
    without_end(client, b"\x00\x00" * 10000)


def serve_pings(client):
    upgraded(client)
    client.settimeout(None)
    without_end(client, b"\x89\x7d" + b"a" * 125)


def serve_compressed(client):
    upgraded(client)
    without_end(client, b"\xc1\x7d" + os.urandom(125))


def serve_drip_frame(client):
    upgraded(client)
    drip(client, struct.pack(">BBH", 0x81, 126, 60000) + b"a" * 60000)


def serve_deaf(client):
    upgraded(client)
    time.sleep(3600)


SERVERS = {name[6:]: work for name, work in list(globals().items()) if name.startswith("serve_")}


def serve(behaviour, port):
    """Until standard input ends."""
    names = itertools.cycle(SERVERS if behaviour == "all" else [behaviour])
    count = collections.Counter()
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", int(port)))
    listener.listen(100)

    def meet(name, client):
        try:
            SERVERS[name](client)
        except OSError:
            pass
        count["ended"] += 1
        client.close()

    def accept():
        while True:
            client, _ = listener.accept()
            name = next(names)
            count["connections"] += 1
            count[name] += 1
            threading.Thread(target=meet, args=(name, client), daemon=True).start()

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
    {"all": everything}.get(sys.argv[1], globals().get(sys.argv[1]))(target)
    print(json.dumps(target.count), flush=True)
    os._exit(0)
