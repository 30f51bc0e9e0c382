"""The jail: a program of its own (standard library alone) that shuts itself in and then starts an untrusted program.

`sandbox.py` starts it and tells it on stdin what to run. Three processes come of it:

- the launcher, as the user who runs saefeat: makes namespaces for processes, mounts, network, IPC (and users, where it
  is not root), and waits;
- an init, process 1 of the new namespace: builds a root of its own in memory and changes into it; with its end the
  kernel kills whatever is left inside;
- the untrusted program: limits are set, then privileges dropped, then it is started.

The root holds Python and the system's libraries, read-only, /dev/null and /dev/urandom, no /proc, and /box, a folder
in memory that alone can be written to. chroot is used, not pivot_root: the kernel lets nobody who is chrooted make a
user namespace, and to leave a chroot takes a capability that is gone.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import resource
import signal
import sys
from typing import Any, NoReturn

NEW_MOUNTS, NEW_UTS, NEW_IPC, NEW_USERS = 0x00020000, 0x04000000, 0x08000000, 0x10000000
NEW_PROCESSES, NEW_NETWORK = 0x20000000, 0x40000000
MS_NOSUID, MS_NODEV, MS_BIND, MS_REC, MS_PRIVATE = 2, 4, 4096, 16384, 1 << 18
MOUNT_SETATTR, AT_FDCWD, AT_RECURSIVE, ATTR_READ_ONLY, ATTR_NOSUID = 442, -100, 0x8000, 1, 2
PR_SET_PDEATHSIG, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 1, 24, 38
ROOT = "/sys"
"""Covered, in this process's own mounts, by the root that is built: a folder that every Linux has and nothing needs."""
LIBRARIES = ("/lib", "/lib32", "/lib64", "/usr/lib", "/usr/lib32", "/usr/lib64", "/usr/local/lib", "/etc/ld.so.cache")
MB = 1 << 20
MAIN = """import os
os.environ.clear()
with open("/program.py", encoding="utf-8", errors="surrogatepass") as file:
    program = compile(file.read(), "/program.py", "exec")
exec(program, {"__name__": "__main__", "__file__": "/program.py"})
"""

libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    told = json.load(sys.stdin)
    step = "namespaces"
    try:
        _call("prctl", PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        own = NEW_MOUNTS | NEW_UTS | NEW_IPC | NEW_PROCESSES | NEW_NETWORK
        outside = os.getuid(), os.getgid()
        _call("unshare", own | (NEW_USERS if told["user"] is None else 0))
        if told["user"] is None:
            step = "user namespace"
            _write("/proc/self/setgroups", "deny")
            _write("/proc/self/uid_map", f"0 {outside[0]} 1")
            _write("/proc/self/gid_map", f"0 {outside[1]} 1")
    except OSError as error:
        _fail(told["report"], step, error)
    init = os.fork()
    if init == 0:
        _init(told)
    for fd in (0, 1, 2, *told["channel"], told["report"]):
        os.close(fd)
    os.waitpid(init, 0)
    os._exit(0)


def _init(told: dict[str, Any]) -> None:
    step = "mounts"
    try:
        _call("prctl", PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        _try_to_write("/proc/self/oom_score_adj", "1000")
        for name in ("shmall", "shmmax"):  # shared memory counts as nobody's address space; of this namespace alone
            _try_to_write(f"/proc/sys/kernel/{name}", "0")
        _build_root(told)
        step = "chroot"
        os.chroot(ROOT)
        os.chdir("/box")
        step = "process"
        program = os.fork()
    except OSError as error:
        _fail(told["report"], step, error)
    if program == 0:
        _start(told)
    for fd in (0, 1, 2, *told["channel"]):
        os.close(fd)
    _, status, used = os.wait4(program, 0)
    ended = {"status": status, "cpu": used.ru_utime + used.ru_stime}
    os.write(told["report"], json.dumps(ended).encode() + b"\n")
    os._exit(0)


def _build_root(told: dict[str, Any]) -> None:
    """Mount the new root over ROOT: libraries and Python read-only, the program, and the one writable folder."""
    os.umask(0o022)
    _mount(None, "/", None, MS_REC | MS_PRIVATE)
    sources = _distinct([*LIBRARIES, *told["prefixes"], "/dev/null", "/dev/urandom"])
    _mount("tmpfs", ROOT, "tmpfs", MS_NOSUID, "size=8m,mode=755")
    for path in sources:
        target = ROOT + path
        os.makedirs(os.path.dirname(target), exist_ok=True)
        if os.path.islink(path):
            os.symlink(os.readlink(path), target)
            continue
        if os.path.isdir(path):
            os.makedirs(target, exist_ok=True)
        else:
            os.close(os.open(target, os.O_CREAT | os.O_WRONLY))
        _mount(path, target, None, MS_BIND | MS_REC)
    for name, text in (("main.py", MAIN), ("program.py", told["program"])):
        with open(f"{ROOT}/{name}", "w", encoding="utf-8", errors="surrogatepass") as file:
            file.write(text)
    os.mkdir(ROOT + "/box")
    _read_only(ROOT)
    user, limits = told["user"] or 0, told["limits"]
    size = f"size={limits['folder_mb']}m,nr_inodes=1024,mode=700,uid={user},gid={user}"
    _mount("tmpfs", ROOT + "/box", "tmpfs", MS_NOSUID | MS_NODEV, size)
    for name, text in told["files"].items():
        path = f"{ROOT}/box/{name}"
        with open(path, "w", encoding="utf-8", errors="surrogatepass") as file:
            file.write(text)
        os.chmod(path, 0o444)


def _start(told: dict[str, Any]) -> None:
    """Set limits, drop privileges, and become the untrusted program."""
    step = "descriptors"
    try:
        os.setsid()
        asked, answers = told["channel"]
        _keep(os.open("/dev/null", os.O_RDONLY), asked, answers, told["report"])
        told["report"] = 5
        step = "limits"
        limits, user = told["limits"], told["user"]
        # in a user namespace of its own the launcher and the init are counted too
        processes = limits["processes"] + (2 if user is None else 0)
        for kind, value in (
            (resource.RLIMIT_NPROC, processes), (resource.RLIMIT_AS, limits["memory_mb"] * MB),
            (resource.RLIMIT_FSIZE, limits["file_mb"] * MB), (resource.RLIMIT_NOFILE, limits["open_files"]),
            (resource.RLIMIT_CORE, 0), (resource.RLIMIT_MEMLOCK, 0), (resource.RLIMIT_MSGQUEUE, 0),
            (resource.RLIMIT_SIGPENDING, 64),
        ):  # fmt: skip
            resource.setrlimit(kind, (value, value))
        resource.setrlimit(resource.RLIMIT_CPU, (limits["cpu_seconds"], limits["cpu_seconds"] + 1))
        step = "privileges"
        capability = 0
        while libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) == 0:
            capability += 1
        if user is not None:
            os.setgroups([])
            os.setresgid(user, user, user)
            os.setresuid(user, user, user)
        _call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        step = "start"
        os.umask(0o077)
        # without -E, for the seed: sets of strings have the same order in every run; main.py empties the environment
        os.execve(told["python"], [told["python"], "-P", "-s", "-S", "-B", "/main.py"], {"PYTHONHASHSEED": "0"})
    except OSError as error:
        _fail(told["report"], step, error)


def _keep(nothing: int, asked: int, answers: int, report: int) -> None:
    """Leave open 0 (nothing), 1, 2, 3 (what is asked), 4 (answers) and, until the program starts, 5 (report)."""
    out_of_the_way = [fcntl.fcntl(fd, fcntl.F_DUPFD, 64) for fd in (nothing, asked, answers, report)]
    for fd, place in zip(out_of_the_way, (0, 3, 4, 5), strict=True):
        os.dup2(fd, place, inheritable=place != 5)
    os.closerange(6, 4096)


# ---------------------------------------------------------------- system calls
def _call(name: str, *arguments: Any) -> None:
    if getattr(libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def _mount(source: str | None, target: str, kind: str | None, flags: int, data: str = "") -> None:
    source_b, kind_b = (None if text is None else text.encode() for text in (source, kind))
    if libc.mount(source_b, target.encode(), kind_b, ctypes.c_ulong(flags), data.encode()) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"mount {target.removeprefix(ROOT) or '/'}: {os.strerror(number)}")


def _read_only(path: str) -> None:
    """Make a mount and those below it read-only and without set-user-id programs (Linux 5.12)."""
    attributes = (ctypes.c_uint64 * 4)(ATTR_READ_ONLY | ATTR_NOSUID, 0, 0, 0)
    size = ctypes.c_size_t(ctypes.sizeof(attributes))
    recursive, number = ctypes.c_uint(AT_RECURSIVE), ctypes.c_long(MOUNT_SETATTR)
    if libc.syscall(number, AT_FDCWD, path.encode(), recursive, ctypes.byref(attributes), size) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"mount_setattr: {os.strerror(error)}")


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(text)


def _try_to_write(path: str, text: str) -> None:
    try:
        _write(path, text)
    except OSError:
        return


def _distinct(paths: list[str]) -> list[str]:
    """The paths that are there, without those inside another of them."""
    kept: list[str] = []
    for path in sorted({os.path.normpath(p) for p in paths if os.path.lexists(p)}):
        if not any(path == k or (path.startswith(k + "/") and not os.path.islink(k)) for k in kept):
            kept.append(path)
    return kept


def _fail(report: int, step: str, error: OSError) -> NoReturn:
    os.write(report, json.dumps({"step": step, "error": error.strerror or str(error)}).encode() + b"\n")
    os._exit(1)


if __name__ == "__main__":
    main()
