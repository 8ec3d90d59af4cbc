"""What GPUs cost, with a driver that is not there (tests/fake-nvml): the agent's share, and that of its GPU probe."""

import contextlib
import time

import metrics
from table import OURS, megabytes, milliseconds, number, print_growth, print_table
from tools import cpu_seconds, family, footprint, per, say

GPUS = [1, 4, 8, 16]


def measure_growth(servers, options):
    """All at the same time, so that what else this machine does is shared."""
    library = servers.fake_nvml()
    found = {}
    with contextlib.ExitStack() as stack:
        agents = [stack.enter_context(servers.agent("interval=1"))]
        asked = []
        for gpus in GPUS:
            script = servers.directory() / "script"
            # Two processes on each.
            processes = "".join(
                f"gpu.{gpu}.processes = 1:1000000, 2:1000000\n" for gpu in range(gpus)
            )
            script.write_text(f"gpus = {gpus}\n{processes}")
            environment = {"HM_FAKE_NVML": str(script)}
            library_is = f"gpu.nvml_library={library}"
            agents.append(
                stack.enter_context(
                    servers.agent("interval=1", library_is, environment=environment)
                )
            )
            asked.append(
                stack.enter_context(
                    servers.agent("interval=60", library_is, environment=environment)
                )
            )
        time.sleep(6)
        seconds = 10 if options.quick else 20
        say("GPUs: a sample a second")
        probes = [family(agent.pid)[1:] for agent in agents]
        before = [sum(map(cpu_seconds, probe)) for probe in probes]
        ours, _ = metrics.once_a_second(agents, [], seconds)
        after = [sum(map(cpu_seconds, probe)) for probe in probes]
        for at, gpus in enumerate([0] + GPUS):
            result = footprint(agents[at].pid) | {"sample": ours[at]}
            probe = probes[at]
            if gpus:
                of_probe = [footprint(pid) for pid in probe]
                result["probe"] = per(after[at] - before[at], seconds)
                result["probe_rss"] = sum(each["rss"] for each in of_probe)
                result["probe_own"] = sum(each["own"] for each in of_probe)
                result["probe_threads"] = sum(each["threads"] for each in of_probe)
                result["scrape"] = metrics.scrapes_cost(asked[at - 1], 200)
                result["series"] = metrics.series(asked[at - 1])
            found[gpus] = result
    return found


def growth(found):
    print("### GPUs\n")
    print(
        "NVIDIA's driver is a double that answers at once (`tests/fake-nvml`), so this is the agent's and the probe's own "
        "work; two processes on each GPU. The probe is a process beside the agent.\n"
    )
    titles = [
        "GPUs",
        "a sample",
        "the probe's share beside it",
        "a scrape",
        "series",
        f"{OURS}: RSS",
        "of its own",
    ]
    titles += ["threads", "open files", "probe: RSS", "of its own", "threads"]
    cells = [
        [
            str(gpus),
            milliseconds(one["sample"]),
            milliseconds(one.get("probe")),
            milliseconds(one.get("scrape")),
            number(one.get("series")),
            megabytes(one["rss"]),
            megabytes(one["own"]),
            number(one["threads"]),
            number(one["files"]),
            megabytes(one.get("probe_rss")),
            megabytes(one.get("probe_own")),
            number(one.get("probe_threads")),
        ]
        for gpus, one in found.items()
    ]
    print_table(titles, cells, 0)
    kinds = {
        "a sample": "sample",
        "the probe's share": "probe",
        "a scrape": "scrape",
        "own memory": "own",
    }
    costs = {title: [found[gpus][key] for gpus in GPUS] for title, key in kinds.items()}
    print_growth("GPUs", GPUS, costs)
