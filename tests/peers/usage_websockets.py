"""A dashboard with Python's websockets and its defaults, its own pings among them.

usage_websockets.py URL INTERVAL SECONDS: fails unless confirmation, system_info and the current
update come at once, and then one update an interval, on time, for so long.
"""

import asyncio
import json
import sys
import time

import websockets


async def main(url, interval, seconds):
    async with websockets.connect(url) as socket:
        start = time.monotonic()
        await socket.send("subscribe:usage")
        assert json.loads(await socket.recv()) == {"status": "subscribed"}
        info = json.loads(await socket.recv())
        assert info["type"] == "system_info" and info["cpu_count"] > 0, info
        update = json.loads(await socket.recv())
        assert update["type"] == "usage_update", update
        assert time.monotonic() - start < 1
        await socket.recv()
        first = time.monotonic()
        ticks = int(seconds / interval)
        for tick in range(1, ticks + 1):
            update = json.loads(await socket.recv())
            late = time.monotonic() - first - tick * interval
            assert abs(late) < 0.25, f"update {tick} is {late:.3f} s off"
            assert 0 <= update["cpu_percent"] <= 100, update
            assert abs(update["timestamp"] - time.time()) < 2, update
        # The latency is that of its own last ping: there was one, and it was answered.
        assert seconds < 21 or 0 < socket.latency < 0.5, socket.latency
        print(f"{ticks} updates on time, ping answered in {socket.latency * 1000:.1f} ms")


asyncio.run(main(sys.argv[1], float(sys.argv[2]), float(sys.argv[3])))
