"""The sandbox: Python that nobody has read runs in it, and what it may do is bounded before it starts.

What holds (Linux 5.12 or newer), and by what:

- processes: RLIMIT_NPROC on a user of its own. Run by root, the program gets a user id that nobody else has; run by
  anybody else, a user namespace of its own, in which processes are counted apart (Linux 5.14);
- time: RLIMIT_CPU for each process, and a clock outside that ends everything;
- memory: RLIMIT_AS for each process (so at most processes × memory), folders in memory of a fixed size;
- files: a root of its own with Python and the system's libraries, read-only; one folder in memory may be written to
  and vanishes; no /proc, no /tmp, nothing of the user's;
- network: a network namespace without a device; no IPC with anything outside;
- environment: empty. Privileges: none, and none to be had (no_new_privs, empty bounding set, chrooted);
- the end: everything in the process namespace is killed when the program or its time ends, or saefeat does.

A sandbox is tried before it is used (`Sandbox` makes harmless attempts at all of this): where something does not hold,
it refuses to start. It is a fence for code of a language model, not for an attacker who knows a fault of the kernel.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saefeat.causal.probe import PROBE, faults
from saefeat.errors import InputError

JAIL = Path(__file__).with_name("jail.py")
UNUSED = 0x70000000
"""First of the user ids that Linux distributions assign to nobody (systemd: 'Users, Groups, UIDs and GIDs')."""
LONGEST_LINE = 1 << 20
"""Bytes of an answer; a longer one counts as none."""
NEEDS = (
    "run on Linux 5.14 or newer with user namespaces allowed (sysctl kernel.unprivileged_userns_clone=1; Ubuntu 24: "
    "kernel.apparmor_restrict_unprivileged_userns=0), or as root; in a container with --cap-add SYS_ADMIN"
)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a program in the sandbox may use."""

    cpu_seconds: int = 3
    """Of each process."""
    wall_seconds: float = 15.0
    """Of everything, from start to end."""
    memory_mb: int = 384
    """Address space of each process, in MiB."""
    processes: int = 6
    """Processes and threads at a time, the program itself included."""
    file_mb: int = 4
    """A file's size, in MiB."""
    folder_mb: int = 16
    """All files together, in MiB."""
    open_files: int = 32
    output_bytes: int = 1 << 16
    """Of stdout and of stderr each; what comes after is thrown away."""


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a program ended. exit_code: None if a signal ended it; cpu_seconds: of the program and what it waited for."""

    stdout: str
    stderr: str
    exit_code: int | None
    signal: int | None
    out_of_time: bool
    cpu_seconds: float
    wall_seconds: float


class Sandbox:
    """A way to run Python shut in, found and tried on this machine when it is made.

    method: 'own user' or 'user namespace'. Raises InputError where programs cannot be shut in, with what to do.
    """

    def __init__(self, limits: Limits | None = None, *, method: str | None = None) -> None:
        self.limits = limits or Limits()
        failures = []
        for tried in [method] if method else _methods():
            self.method = tried
            try:
                _try_out(self)
                return
            except InputError as error:
                failures.append(f"{tried}: {error.what}")
        why = "; ".join(failures) or "it takes the namespaces of Linux"
        raise InputError(f"programs cannot be shut in on this machine ({why})", do=NEEDS)

    def run(self, code: str, files: Mapping[str, str] | None = None) -> Ended:
        """Run a program to its end or to that of its time. files: {name: text} in its folder, where it starts."""
        with self.start(code, files) as program:
            program.receive()  # there is nothing to hear: it returns when the program ends
            return program.end()

    @contextlib.contextmanager
    def start(self, code: str, files: Mapping[str, str] | None = None) -> Iterator[Program]:
        """A running program that is asked line by line; killed at the latest when the block is left.

        In it, descriptor 3 reads what is asked and 4 takes answers.
        """
        program = Program(self, code, files or {})
        try:
            yield program
        finally:
            program.end()


class Program:
    """A program in the sandbox and the lines of JSON exchanged with it. Nothing it says is trusted to be sound."""

    def __init__(self, sandbox: Sandbox, code: str, files: Mapping[str, str]) -> None:
        limits = self.limits = sandbox.limits
        asked, self._ask = os.pipe()
        self._answers, answers = os.pipe()
        self._report, report = os.pipe()
        os.set_blocking(self._ask, False)
        python = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
        told = {
            "program": code,
            "files": dict(files),
            "limits": dataclasses.asdict(limits),
            "user": _own_user() if sandbox.method == "own user" else None,
            "python": python,
            "prefixes": [os.path.realpath(p) for p in (sys.base_prefix, sys.base_exec_prefix)],
            "channel": [asked, answers],
            "report": report,
        }
        self._started = time.monotonic()
        self._ended: Ended | None = None
        self._late = self._closed = False
        self._streams: dict[int, bytearray] = {}
        try:
            self._launcher = subprocess.Popen(
                [python, "-I", "-S", "-B", str(JAIL)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=(asked, answers, report),
                start_new_session=True,
                cwd="/",
                env={},
            )
        except BaseException:
            for fd in (self._ask, self._answers, self._report):
                os.close(fd)
            raise
        finally:
            for fd in (asked, answers, report):
                os.close(fd)
        stdin, stdout, stderr = self._launcher.stdin, self._launcher.stdout, self._launcher.stderr
        assert stdin is not None
        assert stdout is not None
        assert stderr is not None
        self._out, self._err = stdout.fileno(), stderr.fileno()
        self._selector = selectors.DefaultSelector()
        for fd in (self._out, self._err, self._answers, self._report):
            os.set_blocking(fd, False)
            self._selector.register(fd, selectors.EVENT_READ)
            self._streams[fd] = bytearray()
        with contextlib.suppress(BrokenPipeError):  # a launcher that fails says why in its report
            stdin.write(json.dumps(told).encode())
            stdin.close()

    def send(self, value: Any) -> bool:
        """Ask; False if it cannot be heard: the program has ended, or does not read."""
        line = json.dumps(value).encode() + b"\n"
        if self._closed:
            return False
        try:
            return os.write(self._ask, line) == len(line)
        except OSError:
            return False

    def receive(self) -> str | None:
        """The next line that the program writes, unparsed; None when it ended, fell silent, or wrote too much."""
        answers = self._streams[self._answers]
        while b"\n" not in answers:
            if self._closed or len(answers) > LONGEST_LINE or not self._wait():
                return None
        line, _, rest = bytes(answers).partition(b"\n")
        self._streams[self._answers] = bytearray(rest)
        return line.decode("utf-8", errors="replace")

    def _wait(self) -> bool:
        """Take in what is there to read; False when everything is closed or time is up."""
        left = self._started + self.limits.wall_seconds - time.monotonic()
        if left <= 0:
            self._late = True
            return False
        if not self._selector.get_map():
            return False
        for key, _ in self._selector.select(left):
            chunk = os.read(key.fd, 1 << 16)
            if not chunk:
                self._selector.unregister(key.fd)
                continue
            room = self.limits.output_bytes - len(self._streams[key.fd])
            capped = key.fd in (self._out, self._err)
            self._streams[key.fd] += chunk[: max(room, 0)] if capped else chunk
        return True

    def end(self) -> Ended:
        """Kill whatever is left of it, and say how it ended. Raises InputError if it could not be started."""
        if self._ended is None:
            seconds = time.monotonic() - self._started
            if not self._closed:
                self._closed = True
                self._kill()
            self._ended = self._how(seconds)
        return self._ended

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._launcher.pid, signal.SIGKILL)
        self._launcher.wait()
        deadline = time.monotonic() + 2  # everything inside is dead or dying; the pipes say when
        while self._selector.get_map() and time.monotonic() < deadline:
            for key, _ in self._selector.select(0.05):
                if chunk := os.read(key.fd, 1 << 16):
                    room = self.limits.output_bytes - len(self._streams[key.fd])
                    self._streams[key.fd] += chunk[: max(room, 0)]
                else:
                    self._selector.unregister(key.fd)
        self._selector.close()
        for stream in (self._launcher.stdout, self._launcher.stderr):
            assert stream is not None
            stream.close()
        for fd in (self._ask, self._answers, self._report):
            os.close(fd)

    def _how(self, seconds: float) -> Ended:
        said: dict[str, Any] = {}
        for line in bytes(self._streams[self._report]).splitlines():
            said |= json.loads(line)
        if "error" in said:
            raise InputError(f"{said['step']}: {said['error']}", do=NEEDS)
        status, cpu = said.get("status"), said.get("cpu", 0.0)
        by_signal = os.WTERMSIG(status) if status is not None and os.WIFSIGNALED(status) else None
        cpu_up = by_signal == signal.SIGXCPU or (by_signal == signal.SIGKILL and cpu >= self.limits.cpu_seconds)
        return Ended(
            stdout=self._streams[self._out].decode("utf-8", errors="replace"),
            stderr=self._streams[self._err].decode("utf-8", errors="replace"),
            exit_code=os.WEXITSTATUS(status) if status is not None and os.WIFEXITED(status) else None,
            signal=by_signal,
            out_of_time=self._late or cpu_up,
            cpu_seconds=cpu,
            wall_seconds=seconds,
        )


# ---------------------------------------------------------------- does it hold
def _try_out(sandbox: Sandbox) -> None:
    """Make harmless attempts at what must not be possible. Raises InputError if one of them goes through."""
    with sandbox.start(PROBE.replace("LIMIT", str(sandbox.limits.processes))) as program:
        line = program.receive()
        ended = program.end()
    try:
        found = json.loads(line or "")
    except ValueError:
        raise InputError(f"the trial program did not run ({ended.stderr.strip()[-300:] or ended})") from None
    if what := faults(found, sandbox.limits.processes, root_is_allowed=sandbox.method != "own user"):
        raise InputError("; ".join(what))


def _methods() -> list[str]:
    if not sys.platform.startswith("linux"):
        return []
    return ["own user", "user namespace"] if os.geteuid() == 0 else ["user namespace"]


def _own_user() -> int:
    """A user id that nobody has and that no other sandbox is likely to use now: by the clock and this process's id."""
    number = time.monotonic_ns() // 1_000 % 100_000 * 1_000 + os.getpid() % 1_000
    with open("/proc/self/uid_map", encoding="ascii") as file:
        ranges = [tuple(map(int, line.split())) for line in file]
    if any(inside <= UNUSED and inside + count >= UNUSED + 100_000_000 for inside, _, count in ranges):
        return UNUSED + number
    inside, _, count = max(ranges, key=lambda r: r[2])
    if count < 2_000:
        raise InputError("there is no other user id to take in this user namespace")
    return inside + count - 1_600 + number // 1_000 % 1_000  # below the 65,534 of 'nobody'
