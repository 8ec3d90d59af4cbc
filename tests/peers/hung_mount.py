"""A filesystem whose server never answers, like a dead NFS mount, under a running agent.

hung_mount.py AGENT DIRECTORY: mounts a FUSE filesystem without a server; run it under `unshare --mount`. Fails unless updates
stay on time, other filesystems are reported, the log names the mount once, and the mount is reported once its server answers.
"""

import asyncio
import ctypes
import errno
import json
import os
import re
import struct
import subprocess
import sys
import threading
import time

import websockets

LIBC = ctypes.CDLL(None, use_errno=True)
FUSE_INIT, FUSE_STATFS = 26, 17


def mount(directory):
    device = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0".encode()
    if LIBC.mount(b"hung", directory.encode(), b"fuse.hung", 0, options) != 0:
        raise OSError(ctypes.get_errno(), "mount of a FUSE filesystem")
    return device


def answer(device):
    """Serves INIT and STATFS, the two requests that statvfs needs (linux/fuse.h)."""
    while True:
        try:
            request = os.read(device, 1 << 20)
        except OSError as error:
            if error.errno == errno.ENODEV:  # unmounted
                return
            raise
        _, opcode, unique = struct.unpack_from("<IIQ", request)
        if opcode == FUSE_INIT:
            body = struct.pack("<IIIIHHIIHHI7I", 7, 23, 0, 0, 0, 0, 4096, 1, 0, 0, 0, *[0] * 7)
        elif opcode == FUSE_STATFS:
            body = struct.pack("<5Q4I6I", 1000, 600, 500, 0, 0, 4096, 255, 4096, 0, *[0] * 6)
        else:
            os.write(device, struct.pack("<IiQ", 16, -errno.ENOSYS, unique))
            continue
        os.write(device, struct.pack("<IiQ", 16 + len(body), 0, unique) + body)


async def updates(socket):
    while True:
        message = json.loads(await asyncio.wait_for(socket.recv(), 60))
        if message.get("type") == "usage_update":
            yield message


def points(update):
    return [each["mount_point"] for each in update["file_systems"]]


async def watch(url, directory, device, log):
    async with websockets.connect(url) as socket:
        await socket.send("subscribe:detail")
        last, hung_since, late = None, time.monotonic(), 0
        async for update in updates(socket):
            now = time.monotonic()
            # Waiting for the mount would delay every update. A busy machine may delay one or two.
            late += last is not None and now - last > 1.5
            assert late <= 2, f"{now - last} s between updates, for the third time"
            last = now
            assert directory not in points(update)
            if now - hung_since > 8:
                break
        assert "/" in points(update), update["file_systems"]
        named = [line for line in log if f"filesystem {directory} is not responding" in line]
        assert len(named) == 1, log
        threading.Thread(target=answer, args=[device], daemon=True).start()
        async for update in updates(socket):
            if directory in points(update):
                break
            assert time.monotonic() - last < 60, "the mount answers, but is not reported"
        size = next(e for e in update["file_systems"] if e["mount_point"] == directory)
        assert size["total_bytes"] == 1000 * 4096, size
        assert any(f"filesystem {directory} recovered" in line for line in log), log


def collect(lines, log):
    for line in lines:
        log.append(line)


def main(agent, directory):
    device = mount(directory)
    settings = ["-s", "interval=1", "-s", "usage.listen=127.0.0.1:0"]
    settings += ["-s", "heartbeat.enabled=false"]
    process = subprocess.Popen([agent, *settings], stderr=subprocess.PIPE, text=True)
    log = []
    try:
        for line in process.stderr:
            log.append(line)
            if found := re.search(r"usage listening on (\S+)", line):
                break
        threading.Thread(target=collect, args=[process.stderr, log], daemon=True).start()
        asyncio.run(watch(f"ws://{found[1]}/usage", directory, device, log))
        process.terminate()
        assert process.wait(20) == 0, log
        print("omitted while it hung, logged once, reported after recovery")
    finally:
        process.kill()
        LIBC.umount2(directory.encode(), 2)


main(*sys.argv[1:])
