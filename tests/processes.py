"""What a process uses, by /proc."""

import os
from pathlib import Path


def cpu_s(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def status(pid, name):
    """Return a number of /proc/PID/status: "VmRSS" and "VmHWM", the resident memory now and at most, in bytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    number, *unit = next(line.split()[1:] for line in lines if line.startswith(f"{name}:"))
    return int(number) * (1024 if unit else 1)
