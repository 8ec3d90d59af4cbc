"""Machines of files, for `path.*` and node_exporter's `--path.*`: a captured one (tests/fixtures) with more processors and
disks. Each disk has a partition with a file system that is mounted; each is a directory of this machine, which answers.
"""

import re
import shutil

from tools import REPOSITORY

CAPTURED = REPOSITORY / "tests/fixtures/x86/a"


def grow(tree, cores, disks):
    shutil.copytree(CAPTURED, tree)
    proc = tree / "proc"
    grow_stat(proc / "stat", cores)
    processors = (proc / "cpuinfo").read_text().rstrip("\n").split("\n\n")
    text = "\n\n".join(
        re.sub(
            r"^(processor|core id|apicid|initial apicid)(\t+:) \d+",
            rf"\g<1>\2 {cpu}",
            one,
            flags=re.M,
        )
        for cpu, one in ((cpu, processors[cpu % len(processors)]) for cpu in range(cores))
    )
    (proc / "cpuinfo").write_text(text + "\n\n")
    (tree / "sys/devices/system/cpu/online").write_text(f"0-{cores - 1}\n")
    grow_disks(tree, disks)
    return tree


def grow_stat(path, cores):
    text = path.read_text()
    lines = re.findall(r"^cpu\d+ (.*)\n", text, re.M)
    grown = "".join(f"cpu{cpu} {lines[cpu % len(lines)]}\n" for cpu in range(cores))
    path.write_text(re.sub(r"(?:^cpu\d+ .*\n)+", lambda _: grown, text, count=1, flags=re.M))


def grow_disks(tree, disks):
    proc = tree / "proc"
    # The captured machine has one.
    name, counters = re.search(
        r"^ +254 +0 (vda) (.*)$", (proc / "diskstats").read_text(), re.M
    ).groups()
    stats, mounts, old_mounts = [], [], []
    for disk in range(1, disks):
        letters = name[:2] + letters_of(disk)
        major, minor = 8 + disk // 16, disk % 16 * 16
        stats += [
            f"{major:4} {minor:7} {letters} {counters}\n",
            f"{major:4} {minor + 1:7} {letters}1 {counters}\n",
        ]
        where = f"/data/{disk}"
        (tree / "root/data" / str(disk)).mkdir(parents=True)
        mounts.append(
            f"{100 + disk} 27 {major}:{minor + 1} / {where} rw,relatime - ext4 /dev/{letters}1 rw,discard\n"
        )
        old_mounts.append(f"/dev/{letters}1 {where} ext4 rw,relatime,discard 0 0\n")
    with (proc / "diskstats").open("a") as file:
        file.writelines(stats)
    captured = (proc / "self/mountinfo").read_text()
    (proc / "self/mountinfo").write_text(captured + "".join(mounts))
    (proc / "1").mkdir()
    # What node_exporter reads instead.
    fields = [line.split(" ") for line in captured.splitlines()]
    lines = [f"{each[-2]} {each[4]} {each[-3]} {each[5]} 0 0\n" for each in fields]
    (proc / "1/mounts").write_text("".join(lines + old_mounts))


def letters_of(disk):
    """b to z, aa to zz: as the kernel counts disks."""
    letters = chr(ord("a") + disk % 26)
    return letters_of(disk // 26 - 1) + letters if disk >= 26 else letters
