"""What tests/bench.py has measured, as a Markdown table and a list of budgets."""

import os

OURS = "hm-agent"
PEER = "Python server"

# What, where in a result, its unit, digits, and whether the ratio says anything.
ROWS = [
    ("connected", "connected", 1, 0, False),
    ("time to connect (s)", "connect_seconds", 1, 2, False),
    ("closed by the server", "closed_by_server", 1, 0, False),
    ("updates expected", "updates_expected", 1, 0, False),
    ("updates missed", "updates_missed", 1, 0, False),
    ("updates too many or early", "updates_unexpected", 1, 0, False),
    ("lateness p50 (ms)", "lateness_ms p50", 1, 1, True),
    ("lateness p99 (ms)", "lateness_ms p99", 1, 1, True),
    ("lateness max (ms)", "lateness_ms max", 1, 1, True),
    ("RSS idle (MB)", "idle 0", 1e6, 2, True),
    ("PSS idle (MB)", "idle 1", 1e6, 2, True),
    ("RSS with subscribers (MB)", "loaded 0", 1e6, 2, True),
    ("PSS with subscribers (MB)", "loaded 1", 1e6, 2, True),
    ("RSS per subscriber (bytes)", "each 0", 1, 0, True),
    ("PSS per subscriber (bytes)", "each 1", 1, 0, True),
    ("machine's memory per connection (bytes)", "machine_each", 1, 0, True),
    ("updates delivered in the window", "updates_received", 1, 0, False),
    ("CPU in the window (s)", "cpu", 1, 3, False),
    ("CPU per update (µs)", "cpu_each", 1e-6, 1, True),
    ("CPU per update of the load (µs)", "load_cpu_each", 1e-6, 1, False),
    ("CPU of everything else (s)", "other_cpu", 1, 2, False),
]


def print_all(options, results, interval_seconds):
    print(
        f"Window {options.seconds} s, interval {interval_seconds} s, {os.cpu_count()} "
        "processors. 1 MB is 1,000,000 bytes. The ratio is the peer's value by ours.\n"
    )
    print(f"| subscribers | | {OURS} | {PEER} | ratio |")
    print("| ---: | --- | ---: | ---: | ---: |")
    for count in options.subscribers:
        for row in ROWS:
            ours, peers = results[count, OURS], results.get((count, PEER))
            print(f"| {count:,} | {' | '.join(cells(row, ours, peers))} |")
    print(f"\n{generator_note(options, results)}\n\nBudgets:\n")
    for budget, measured, kept in budgets(options, results):
        verdict = {True: "yes", False: "no", None: "not measured"}[kept]
        print(f"- {budget}: " + ("" if kept is None else f"{measured}: ") + verdict)


def cells(row, ours, peers):
    title, key, unit, digits, compared = row
    values = value_of(ours, key), value_of(peers, key)
    texts = [
        "–" if value is None else f"{value / unit:,.{digits}f}" for value in values
    ]
    times = ratio(*values) if compared else None
    return title, *texts, f"{times:,.1f}" if times else ""


def value_of(result, key):
    for part in key.split():
        if result is not None:
            result = result[int(part)] if part.isdigit() else result[part]
    return result


def ratio(ours, peers):
    return peers / ours if ours and peers and ours > 0 else None


def generator_note(options, results):
    most = options.subscribers[-1]
    result = results[most, OURS]
    each = result["load_cpu_each"] or 0
    return (
        f"Note: the load generator shares {os.cpu_count()} processors with the server. "
        f"With {most:,} subscribers to {OURS} it used {each * 1e6:.1f} µs CPU for an "
        f"update, {each * result['connected'] * 1e3:.0f} ms of one processor for a tick, "
        f"and {result['load_cpu']:.2f} s in the window, in which {OURS} used "
        f"{result['cpu']:.2f} s. Its own slowness counts as lateness."
    )


def budgets(options, results):
    """Each budget, what was measured, and whether it is kept (None: not measured)."""
    ours = {count: results[count, OURS] for count in options.subscribers}
    idle = max(result["idle"][0] for result in ours.values())
    yield "RSS idle ≤ 2 MB", f"{idle / 1e6:.2f} MB", idle <= 2e6
    yield "RSS per subscriber ≤ 14 KB", *memory_budget(ours)
    yield "10,000 subscribers: p99 ≤ 100 ms late", *lateness_budget(ours.get(10000))
    yield "10,000 subscribers: none missed", *delivery_budget(ours.get(10000))
    yield "CPU per update ≤ 1/80 of the peer's", *cpu_budget(options, results)


def memory_budget(ours):
    most = max(ours)
    each = ours[most]["each"][0]
    # With few, one would see the granularity of pages and of the kernel's counters.
    if most < 1000 or each is None:
        return None, None
    return f"{each / 1e3:.2f} KB with {most:,}", each <= 14e3


def lateness_budget(result):
    late = value_of(result, "lateness_ms p99")
    return (None, None) if late is None else (f"{late:.1f} ms", late <= 100)


def delivery_budget(result):
    if result is None:
        return None, None
    connected, missed = result["connected"], result["updates_missed"]
    text = (
        f"{missed:,} of {result['updates_expected']:,} missed, {connected:,} connected"
    )
    return text, connected == 10000 and missed == 0


def cpu_budget(options, results):
    """At 200 or fewer, where the peer still delivers; the most is judged."""
    ratios = {}
    for count in options.subscribers:
        if count <= 200 and (count, PEER) in results:
            pair = results[count, OURS]["cpu_each"], results[count, PEER]["cpu_each"]
            if times := ratio(*pair):
                ratios[count] = times
    if not ratios:
        return None, None
    texts = [f"1/{times:.0f} with {count}" for count, times in ratios.items()]
    judged = max(ratios)
    return f"{', '.join(texts)}; judged with {judged}", ratios[judged] >= 80
