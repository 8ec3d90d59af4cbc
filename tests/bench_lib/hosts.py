"""What hosts cost that are watched over SSH: tests/monitor_many.rs starts them, and measures."""

from table import kilobytes, megabytes, number, print_growth, print_table

HOSTS = [1, 10, 100]


def measure_growth(servers, options):
    seconds = 10 if options.quick else 20
    runs = ",".join(str(hosts) for hosts in (HOSTS[:2] if options.quick else HOSTS))
    variables = {"HM_MONITOR_HOSTS": runs, "HM_MONITOR_SECONDS": str(seconds)}
    return servers.test("monitor_many", "what_hosts_cost", **variables)


def growth(found):
    print("### Hosts of `/monitor`\n")
    print(
        "One client; the hosts are this machine, too, under users of their own. Memory is that which nobody shares. Of one "
        "processor.\n"
    )
    titles = [
        "hosts",
        "all logged in after",
        "looks a client missed",
        "the agent, CPU",
        "per host",
        "memory per host",
    ]
    titles += ["threads", "open files", "ssh per host, CPU", "memory", "there, CPU", "memory"]
    cells = [
        [
            number(one["hosts"]),
            number(one["login_seconds"], 1, 1, " s"),
            number(one["missed"]),
            number(one["agent_percent"], 1, 2, " %"),
            number(one["agent_percent"] / one["hosts"], 1, 3, " %"),
            kilobytes(one["agent_bytes_each"]),
            number(one["threads"]),
            number(one["files"]),
            number(one["ssh_percent_each"], 1, 3, " %"),
            megabytes(one["ssh_bytes_each"]),
            number(one["there_percent_each"], 1, 3, " %"),
            megabytes(one["there_bytes_each"]),
        ]
        for one in found
    ]
    print_table(titles, cells, 0)
    sizes = [one["hosts"] for one in found]
    costs = {
        "the agent's CPU": [one["agent_percent"] for one in found],
        "its memory": [one["agent_bytes_each"] * one["hosts"] for one in found],
        "ssh's CPU": [one["ssh_percent_each"] * one["hosts"] for one in found],
    }
    print_growth("hosts", sizes, costs)
