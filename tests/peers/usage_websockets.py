"""A client with Python's websockets and its defaults, including its pings.

usage_websockets.py URL INTERVAL SECONDS: fails unless confirmation, system_info and the current update arrive at once, followed by
one update an interval, on time.
"""

import asyncio
import json
import sys
import time

import websockets

AT_ONCE = 5  # seconds, for a busy machine


def on_time(times, interval):
    """How many arrived at the same phase of the interval: a busy machine delays some."""
    off = lambda time, base: abs((time - base + interval / 2) % interval - interval / 2)
    return max(sum(off(time, base) < 0.25 for time in times) for base in times)


async def main(url, interval, seconds):
    async with websockets.connect(url) as socket:
        start = time.monotonic()
        await socket.send("subscribe:usage")
        assert json.loads(await socket.recv()) == {"status": "subscribed"}
        info = json.loads(await socket.recv())
        assert info["type"] == "system_info" and info["cpu_count"] > 0, info
        update = json.loads(await socket.recv())
        assert update["type"] == "usage_update", update
        assert time.monotonic() - start < AT_ONCE
        times = []
        while not times or time.monotonic() - times[0] < seconds:
            update = json.loads(await socket.recv())
            times.append(time.monotonic())
            assert 0 <= update["cpu_percent"] <= 100, update
            assert abs(update["timestamp"] - time.time()) < AT_ONCE, update
        wanted, good = seconds / interval, on_time(times, interval)
        assert 0.75 * wanted <= good <= len(times) <= wanted + 3, times
        # The latency of its last ping, so there was one and it was answered.
        assert seconds < 21 or 0 < socket.latency < AT_ONCE, socket.latency
        print(f"{good} of {len(times)} updates on time, ping answered in {socket.latency * 1000:.1f} ms")


asyncio.run(main(sys.argv[1], float(sys.argv[2]), float(sys.argv[3])))
