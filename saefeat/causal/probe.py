"""What a sandbox is tried with before it is used: a program of harmless attempts, and what must not come of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PROBE = """
import json, os, socket, time
found = {"environment": sorted(os.environ), "user": os.getuid(), "forks": 0}
found["seen"] = [p for p in ("/proc/self", "/sys/kernel", "/etc/passwd", "/var") if os.path.exists(p)]
found["written"] = []
for folder in ("/", "/usr", "/usr/lib", "/lib", "/dev", os.path.dirname(os.__file__)):
    try:
        open(folder + "/saefeat-probe", "w").close()
        found["written"].append(folder)
    except OSError:
        pass
try:
    open("here", "w").close()
    found["folder"] = True
except OSError:
    found["folder"] = False
try:
    socket.create_connection(("192.0.2.1", 9), timeout=1).close()  # an address for documentation: nobody has it
    found["network"] = "connected"
except TimeoutError:
    found["network"] = "packets leave"
except OSError:
    found["network"] = None
for _ in range(LIMIT + 4):  # a handful, each of which only sleeps
    try:
        if os.fork() == 0:
            time.sleep(20)
            os._exit(0)
    except OSError:
        break
    found["forks"] += 1
os.write(4, json.dumps(found).encode() + b"\\n")
time.sleep(20)
"""
"""In it LIMIT stands for the number of processes allowed: it makes at most four more, each of which only sleeps."""


def faults(found: Mapping[str, Any], processes: int, *, root_is_allowed: bool) -> list[str]:
    """What does not hold, in words, given what the program found. root_is_allowed: in a user namespace of its own, root
    is the user who runs it, without privileges."""
    told = [
        (found["forks"] >= processes, f"{found['forks'] + 1} processes ran where {processes} are allowed"),
        (found["network"] is not None, f"the network is open ({found['network']})"),
        (bool(found["written"]), f"{', '.join(found['written'])} can be written to"),
        (bool(found["seen"]), f"{', '.join(found['seen'])} can be seen"),
        (not found["folder"], "its own folder cannot be written to"),
        (bool(found["environment"]), f"{', '.join(found['environment'])} is in the environment"),
        (found["user"] == 0 and not root_is_allowed, "it runs as root"),
    ]
    return [text for fault, text in told if fault]
