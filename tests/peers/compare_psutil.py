"""Our numbers beside psutil's over the same windows, idle and under load.

compare_psutil.py URL: wants the agent to sample every 2 s. Fails when cpu_percent is 5 points or more
off, or RAM 1 % of its total, in more than four of six windows: a busy machine shifts some of them.
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
    # The window begins with one update and ends with the next; psutil counts from call to call.
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
    raise AssertionError(f"{load}: they do not agree")


async def main(url):
    async with websockets.connect(url) as socket:
        await socket.send("subscribe:usage")
        await compare(socket, "as it is")
        for processes in (1, psutil.cpu_count()):
            busy = [subprocess.Popen(BUSY) for _ in range(processes)]
            try:
                await compare(socket, f"{processes} busy")
            finally:
                for process in busy:
                    process.kill()
                    process.wait()


asyncio.run(main(sys.argv[1]))
