#!/usr/bin/env bash
# Runs the Arm binary under QEMU: `sample` of a fixture, /usage, heartbeats.
# arm.sh BINARY
set -euo pipefail
cd "$(dirname "$0")/../.."
. tests/packaging/lib.sh
work=$(mktemp -d)
trap 'kill $agent 2>/dev/null || :; rm -rf "$work"' EXIT
agent=
arm() { qemu-aarch64-static "$binary" "$@"; }
binary=$1
say "$(arm --version)"
arm --version | grep -q 'aarch64-unknown-linux-musl' || fail "wrong target"
roots=(-s path.proc="$PWD/tests/fixtures/arm/a/proc" -s path.sys="$PWD/tests/fixtures/arm/a/sys"
    -s path.root="$PWD/tests/fixtures/arm/a/root" -s gpu.source=none)
arm sample "${roots[@]}" >"$work/sample"
head -n 5 "$work/sample"
grep -q 'Cortex-A72' "$work/sample" || fail "$(cat "$work/sample")"
qemu-aarch64-static "$binary" run "${roots[@]}" -s usage.listen=127.0.0.1:0 -s heartbeat.listen=127.0.0.1:0 -s state_dir="$work/state" \
    -s interval=1 2>"$work/log" &
agent=$!
listens() { grep -q 'heartbeat listening on' "$work/log"; }
soon listens
port() { sed -n "s/.*$1 listening on 127.0.0.1:\([0-9]*\)\$/\1/p" "$work/log"; }
[ "$(curl -sf "http://127.0.0.1:$(port heartbeat)/hb_ping?5000&appid=arm")" = 6000 ] || fail "heartbeat"
HB_URL="http://127.0.0.1:$(port heartbeat)" arm status arm | grep '^OK' || fail "status"
curl -sf "http://127.0.0.1:$(port usage)/snapshot" >"$work/snapshot"
grep -q Cortex-A72 "$work/snapshot" || fail "$(head -c 600 "$work/snapshot")"
# The first messages of /usage. A client must mask its frames.
python3 - "$(port usage)" <<'PYTHON'
import base64, json, os, socket, struct, sys
peer = socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=20)
peer.sendall(b"GET /usage HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
             b"Sec-WebSocket-Key: " + base64.b64encode(os.urandom(16)) + b"\r\n\r\n")
stream = peer.makefile("rb")
assert b" 101 " in stream.readline()
while stream.readline().strip():
    pass
text, mask = b"subscribe:usage", os.urandom(4)
peer.sendall(bytes([0x81, 0x80 | len(text)]) + mask + bytes(b ^ mask[i % 4] for i, b in enumerate(text)))
kinds = []
for _ in range(4):
    length = stream.read(2)[1]
    length = struct.unpack(">H", stream.read(2))[0] if length == 126 else length
    message = json.loads(stream.read(length))
    kinds.append(message.get("type", message.get("status")))
print("  ", *kinds)
assert kinds == ["subscribed", "system_info", "usage_update", "usage_update"], kinds
PYTHON
kill "$agent"
wait "$agent" || fail "it exits with $?"
agent=
