"""Compares the agent with psutil over the same windows, idle and under load.

compare_psutil.py URL: the agent has to sample every 2 s. Fails if cpu_percent differs by 5 points or more, or memory by 1 % of the
total, in more than four of six windows: a busy machine shifts some of them.
"""

import asyncio
import json
import subprocess
import sys

import psutil
import websockets

BUSY = [sys.executable, "-c", "while True: pass"]


async def update(socket):
    while True:
        message = json.loads(await socket.recv())
        if message.get("type") == "usage_update":
            return message


async def compare(socket, load):
    # A window lasts from one update to the next; psutil measures from call to call.
    await update(socket)
    psutil.cpu_percent()
    good = 0
    for _ in range(6):
        ours = await update(socket)
        cpu, memory = psutil.cpu_percent(), psutil.virtual_memory()
        total, used = memory.total >> 20, (memory.total - memory.available) >> 20
        print(
            f"{load}: cpu {ours['cpu_percent']} % psutil {cpu} %, "
            f"ram {ours['ram_used_mb']} MiB psutil {used} MiB, "
            f"{ours['ram_percent']} % psutil {memory.percent} %"
        )
        assert ours["ram_total_mb"] == total
        good += (
            abs(ours["cpu_percent"] - cpu) < 5
            and abs(ours["ram_used_mb"] - used) < 0.01 * total
            and abs(ours["ram_percent"] - memory.percent) < 1
        )
        if good == 2:
            return
    raise AssertionError(f"{load}: the values differ")


async def main(url):
    async with websockets.connect(url) as socket:
        await socket.send("subscribe:usage")
        await compare(socket, "idle")
        for processes in (1, psutil.cpu_count()):
            busy = [subprocess.Popen(BUSY) for _ in range(processes)]
            try:
                await compare(socket, f"{processes} busy")
            finally:
                for process in busy:
                    process.kill()
                    process.wait()


asyncio.run(main(sys.argv[1]))
