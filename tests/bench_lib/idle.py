"""What is there before anybody asks: the program's size, its memory, how soon it listens; and what others take."""

import concurrent.futures
import contextlib
import os
import shutil
import time
from pathlib import Path

import metrics
from table import (
    OURS,
    at_most,
    kilobytes,
    megabytes,
    milliseconds,
    number,
    print_table,
    ratio,
    row,
    verdict,
)
from tools import (
    Failure,
    Line,
    Missing,
    family,
    footprint,
    found,
    free_port,
    listens,
    median,
    running,
    say,
)

STARTS = 20


def measure(servers, options):
    say("idle: everybody, at the same time")
    with concurrent.futures.ThreadPoolExecutor() as pool, contextlib.ExitStack() as stack:
        ours = pool.submit(servers.test, "footprint", "all_services_idle")
        there = {
            name: started(start, stack) | {"bytes": size_of(program)}
            for name, (start, program) in peers(servers).items()
        }
        time.sleep(60)
        for one in there.values():
            if "server" in one:
                one |= memory_of(one["server"])
        [idle] = ours.result()
    result = {"bytes": servers.program.stat().st_size, "idle": idle, "peers": there}
    result["start"], result["peer_start"] = starts(servers)
    return result


def peers(servers):
    """The Python server's program is not one file."""
    return {
        "node_exporter": (servers.node_exporter, "prometheus-node-exporter"),
        "Python server": (servers.document_server, None),
        "released heartbeat server": (servers.heartbeat_server, None),
        "telegraf": (lambda: telegraf(servers), "telegraf"),
        "collectd": (lambda: collectd(servers), "collectd"),
        "zabbix_agentd": (lambda: zabbix(servers, "zabbix_agentd"), "zabbix_agentd"),
        "zabbix_agent2": (lambda: zabbix(servers, "zabbix_agent2"), "zabbix_agent2"),
    }


def telegraf(servers):
    """Its inputs of the machine, shown to Prometheus."""
    program, port = found("telegraf"), free_port()
    inputs = ["cpu", "mem", "disk", "diskio", "net", "system", "swap", "processes"]
    text = f'[[outputs.prometheus_client]]\nlisten = "127.0.0.1:{port}"\n'
    config = servers.directory() / "telegraf.conf"
    config.write_text(text + "".join(f"[[inputs.{name}]]\n" for name in inputs))
    return servers.listening([program, "--quiet", "--config", config], port)


def collectd(servers):
    """Its plugins of the machine."""
    program, directory = found("collectd", "collectd-core"), servers.directory()
    plugins = ["cpu", "memory", "df", "disk", "interface", "load", "swap", "uptime"]
    text = f'BaseDir "{directory}"\nPIDFile "{directory}/pid"\nInterval 5\n'
    config = directory / "collectd.conf"
    config.write_text(text + "".join(f"LoadPlugin {name}\n" for name in plugins))
    return servers.silent([program, "-f", "-C", config])


def zabbix(servers, name):
    package = "zabbix-agent2" if name.endswith("2") else "zabbix-agent"
    program, directory = found(name, package), servers.directory()
    # It takes no port above this.
    port = next(port for port in range(20000, 32768) if not listens(port))
    config = directory / "zabbix.conf"
    text = f"LogType=console\nPidFile={directory}/pid\nServer=127.0.0.1\nListenIP=127.0.0.1\nListenPort={port}\n"
    text += f"ControlSocket={directory}/socket\n" if name.endswith("2") else "AllowRoot=1\n"
    config.write_text(text)
    return servers.listening([program, "--foreground", "--config", config], port)


def started(start, stack):
    """A peer that has been asked once, or why there is none."""
    try:
        server = stack.enter_context(start())
    except Missing as reason:
        return {"absent": str(reason)}
    except Failure as failure:
        return {"absent": f"does not start: {str(failure).splitlines()[-1][:60]}"}
    if start.__name__ == "node_exporter":
        with Line(server.port) as line:
            metrics.scrape(line)
    return {"server": server}


def size_of(program):
    with contextlib.suppress(Missing):
        return program and Path(os.path.realpath(found(program))).stat().st_size


def memory_of(server):
    each = [footprint(pid) for pid in family(server.pid)]
    result = {key: sum(one[key] for one in each) for key in each[0]}
    # Pages that several processes share are counted once.
    result["rss"] = result["pss"] if len(each) > 1 else result["rss"]
    return result | {"processes": len(each)}


def starts(servers):
    """Seconds from the start of a program until it accepts connections, in turn: ours, node_exporter's."""
    ours, theirs = [], []
    exporter = shutil.which("prometheus-node-exporter")
    for _ in range(STARTS):
        port, other = free_port(), free_port()
        directory = servers.directory()
        (directory / "hm-agent.toml").touch()
        command = [servers.program, "-c", directory / "hm-agent.toml"]
        for setting in (f"usage.listen=127.0.0.1:{port}", f"heartbeat.listen=127.0.0.1:{other}"):
            command += ["-s", setting]
        command += ["-s", f"state_dir={directory}"]
        ours.append(start_seconds(command, port))
        if exporter:
            port = free_port()
            theirs.append(start_seconds([exporter, f"--web.listen-address=127.0.0.1:{port}"], port))
    return ours, theirs


def start_seconds(command, port):
    with contextlib.ExitStack() as stack:
        null = stack.enter_context(open(os.devnull, "w"))
        begin = time.monotonic()
        process = stack.enter_context(running(command, stdout=null, stderr=null))
        while not listens(port):
            if process.poll() is not None or time.monotonic() - begin > 15:
                raise Failure(f"{command[0]} does not listen")
        return time.monotonic() - begin


def rows(result):
    exporter, python = (result["peers"][name] for name in ("node_exporter", "Python server"))

    def there(peer, key, name):
        return f"{megabytes(peer[key])} ({name})" if "server" in peer else peer["absent"]

    def factor(ours, peer, key):
        return ratio(ours, peer.get(key))

    size, rss = result["bytes"], result["idle"]["rss"]
    yield row(
        "static binary, GPU probe and TLS inside",
        "≤ 2.5 MB",
        megabytes(size),
        there(exporter, "bytes", "node_exporter"),
        factor(size, exporter, "bytes"),
        verdict(at_most(size, 2.5e6)),
    )
    for name, peer in (("node_exporter", exporter), ("Python server", python)):
        yield row(
            "resident memory, all services idle",
            "≤ 2 MB",
            megabytes(rss),
            there(peer, "rss", name),
            factor(rss, peer, "rss"),
            verdict(at_most(rss, 2e6)),
        )
    start, theirs = median(result["start"]), median(result["peer_start"])
    yield row(
        "start to listening",
        "≤ 50 ms",
        milliseconds(start),
        f"{milliseconds(theirs)} (node_exporter)" if theirs else exporter["absent"],
        ratio(start, theirs),
        verdict(at_most(start, 0.05)),
    )


def details(result):
    print("### Idle\n")
    print(
        f"{OURS} with hm, Core and `/monitor` on has answered one request at each port, node_exporter one scrape; a minute later "
        "this is what they take. The others are as they come, with what they know of the machine switched on. Of several "
        "processes the proportional shares are added up.\n"
    )
    titles = ["", "program", "RSS", "of its own", "threads", "open files", "processes"]
    ours = result["idle"] | {"bytes": result["bytes"], "processes": 1}
    cells = []
    for name, one in ({OURS: ours} | result["peers"]).items():
        if "absent" in one:
            cells.append([name, one["absent"], "", "", "", "", ""])
            continue
        cells.append(
            [name, megabytes(one["bytes"]), megabytes(one["rss"]), kilobytes(one["own"])]
            + [number(one[key]) for key in ("threads", "files", "processes")]
        )
    print_table(titles, cells)
