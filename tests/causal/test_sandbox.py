"""The sandbox holds: what untrusted programs try stays inside, and the run goes on afterwards."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from saefeat.causal import Limits, Sandbox
from saefeat.causal import sandbox as module
from saefeat.errors import InputError

QUICK = Limits(cpu_seconds=1, wall_seconds=3)


@pytest.fixture(scope="module")
def quick(sandbox: Sandbox) -> Sandbox:
    return Sandbox(QUICK, method=sandbox.method)


def still_works(sandbox: Sandbox) -> bool:
    return sandbox.run("print(6 * 7)").stdout == "42\n"


def said(sandbox: Sandbox, code: str) -> object:
    ended = sandbox.run("import json, os\n" + code)
    assert ended.exit_code == 0, ended.stderr
    return json.loads(ended.stdout)


def others_of(user: int) -> int:
    """Processes of a user on this machine."""
    count = 0
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            try:
                count += path.stat().st_uid == user
            except OSError:
                continue
    return count


def nobody_is_left(user: int) -> bool:
    """Whether a user's processes are gone within a moment: the kernel takes one to clear what it has killed."""
    deadline = time.monotonic() + 2
    while others_of(user) and time.monotonic() < deadline:
        time.sleep(0.02)
    return others_of(user) == 0


# ---------------------------------------------------------------- what it is for
def test_a_program_runs_and_is_heard(sandbox: Sandbox) -> None:
    ended = sandbox.run("import sys; print(open('a.txt').read()); sys.exit(3)", {"a.txt": "grüße 🙂"})
    assert (ended.stdout, ended.exit_code, ended.signal, ended.out_of_time) == ("grüße 🙂\n", 3, None, False)
    ended = sandbox.run("1 / 0")
    assert ended.exit_code == 1
    assert ended.stderr.endswith("ZeroDivisionError: division by zero\n")
    assert 'program.py", line 1' in ended.stderr


def test_its_own_folder_can_be_written_to_and_is_fresh_each_time(sandbox: Sandbox) -> None:
    code = "import os; print(os.listdir()); open('b', 'w').write('x' * 1000); os.mkdir('c'); print(len(os.listdir()))"
    for _ in range(2):
        assert sandbox.run(code).stdout == "[]\n2\n"


def test_sets_of_strings_have_one_order(sandbox: Sandbox) -> None:
    code = "print(list({'a', 'b', 'c', 'd', 'e', 'f'}))"
    assert sandbox.run(code).stdout == sandbox.run(code).stdout


def test_lines_are_exchanged_while_it_runs(sandbox: Sandbox) -> None:
    code = "for line in open(3):\n    open(4, 'w', closefd=False).write(str(len(line)) + '\\n')"
    with sandbox.start(code) as program:
        assert program.send("abc")
        assert program.receive() == "6"
        assert program.send([1, 2])
        assert program.receive() == "7"
    assert not program.send("nobody hears it")
    assert program.receive() is None


# ---------------------------------------------------------------- processes
def test_the_limit_of_processes_holds_with_a_handful_of_forks(sandbox: Sandbox) -> None:
    code = """import os, time
made = 0
for _ in range(12):
    try:
        if os.fork() == 0:
            time.sleep(5)
            os._exit(0)
    except BlockingIOError:
        break
    made += 1
print(made)
"""
    assert sandbox.run(code).stdout == f"{sandbox.limits.processes - 1}\n"


def test_a_fork_bomb_is_contained_and_nothing_of_it_is_left(quick: Sandbox) -> None:
    started = time.monotonic()
    ended = quick.run("""import os
print(os.getuid(), flush=True)
while True:
    try:
        os.fork()
    except OSError:
        pass
""")
    user = int(ended.stdout.split()[0])
    assert ended.out_of_time
    assert time.monotonic() - started < QUICK.wall_seconds + 3
    if user:  # in a user namespace it is the user who runs this test
        assert nobody_is_left(user)
    assert still_works(quick)


def test_threads_count_as_processes(sandbox: Sandbox) -> None:
    code = """import threading, time
for n in range(20):
    try:
        threading.Thread(target=time.sleep, args=(5,), daemon=True).start()
    except RuntimeError:
        print(n, flush=True)
        import os; os._exit(0)
"""
    assert int(sandbox.run(code).stdout) == sandbox.limits.processes - 1


def test_what_it_leaves_running_ends_with_it(sandbox: Sandbox) -> None:
    ended = sandbox.run("""import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(60)
print(os.getuid())
""")
    assert ended.wall_seconds < 5
    user = int(ended.stdout.split()[0])
    assert user == 0 or nobody_is_left(user)


def test_it_ends_when_saefeat_is_killed(sandbox: Sandbox, tmp_path: Path) -> None:
    child = (
        "from saefeat.causal import Sandbox\n"
        f"Sandbox(method={sandbox.method!r}).run('import time; time.sleep(50)', {{}})"
    )
    process = subprocess.Popen([sys.executable, "-c", child])
    deadline = time.monotonic() + 60
    while not (launchers := _launchers(process.pid)) and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.5)
    launchers = _launchers(process.pid) or launchers
    process.kill()
    process.wait()
    deadline = time.monotonic() + 5
    while any(Path(f"/proc/{pid}").exists() for pid in launchers) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert launchers
    assert not any(Path(f"/proc/{pid}").exists() for pid in launchers)


def _launchers(parent: int) -> list[int]:
    """Launchers that a process started, with what they started."""
    found, left = [], [parent]
    while left:
        for path in Path(f"/proc/{left.pop()}/task").glob("*/children"):
            try:
                children = [int(pid) for pid in path.read_text().split()]
            except OSError:
                continue
            left += children
            found += children
    return found


# ---------------------------------------------------------------- time and memory
def test_an_endless_loop_ends_by_cpu_time(quick: Sandbox) -> None:
    ended = quick.run("while True: pass")
    assert ended.out_of_time
    assert ended.signal == signal.SIGXCPU
    assert 0.8 < ended.cpu_seconds < 2.5
    assert still_works(quick)


def test_ignoring_the_signal_does_not_help(quick: Sandbox) -> None:
    ended = quick.run("import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass")
    assert ended.out_of_time
    assert ended.signal == signal.SIGKILL


def test_sleeping_ends_by_the_clock(quick: Sandbox) -> None:
    ended = quick.run("import time; time.sleep(60)")
    assert ended.out_of_time
    assert QUICK.wall_seconds - 0.1 < ended.wall_seconds < QUICK.wall_seconds + 2
    assert still_works(quick)


def test_a_memory_hog_gets_no_more_than_its_limit(sandbox: Sandbox) -> None:
    code = """hog = []
try:
    while True:
        hog.append(bytearray(1 << 20))
except MemoryError:
    held = len(hog)
    del hog
    print(held)
"""
    held = int(sandbox.run(code).stdout)
    assert sandbox.limits.memory_mb / 2 < held < sandbox.limits.memory_mb
    assert still_works(sandbox)


def test_files_and_output_are_bounded(sandbox: Sandbox) -> None:
    code = """
made = 0
try:
    for n in range(100):
        with open(str(n), "wb") as file:
            for _ in range(3):
                file.write(bytes(1 << 20))
                made += 1
except OSError:
    pass
print(json.dumps(made))
"""
    assert 10 <= said(sandbox, code) <= sandbox.limits.folder_mb  # type: ignore[operator]
    ended = sandbox.run("open('big', 'wb').write(bytes(5 << 20))")
    assert ended.exit_code != 0
    ended = sandbox.run("import sys\nfor _ in range(1000): sys.stdout.write('x' * 10_000)")
    assert len(ended.stdout) == sandbox.limits.output_bytes
    assert ended.exit_code == 0
    code = "files = []\ntry:\n  while True: files.append(open('/dev/null'))\nexcept OSError: print(len(files))"
    assert int(sandbox.run(code).stdout) < sandbox.limits.open_files


def test_a_line_without_end_is_not_taken(quick: Sandbox) -> None:
    with quick.start("import os\nwhile True: os.write(4, b'x' * 65536)") as program:
        assert program.receive() is None
        assert sum(map(len, program._streams.values())) < 3 * module.LONGEST_LINE
    assert still_works(quick)


# ---------------------------------------------------------------- what is outside
def test_nothing_outside_its_folder_can_be_written(sandbox: Sandbox, tmp_path: Path) -> None:
    target = tmp_path / "mine"
    target.write_text("untouched")
    tmp_path.chmod(0o777)
    target.chmod(0o666)
    places = [str(target), str(tmp_path / "new"), "/tmp/new", "/box/../x", "/main.py", "/etc/x", "/dev/shm/x",
              os.__file__, "/usr/lib/x", "/dev/x", "../x"]  # fmt: skip
    code = f"""
written = []
for path in {places!r}:
    try:
        open(path, "a").write("here")
        written.append(path)
    except OSError:
        pass
print(json.dumps(written))
"""
    assert said(sandbox, code) == []
    assert target.read_text() == "untouched"
    assert list(tmp_path.iterdir()) == [target]


def test_files_of_the_user_cannot_be_seen(sandbox: Sandbox, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("s")
    secret.chmod(0o644)
    paths = [
        str(secret),
        "/etc/passwd",
        "/proc/1/environ",
        f"/proc/{os.getpid()}/environ",
        "/proc/self",
        "/var",
        "/sys",
    ]
    assert said(sandbox, f"print(json.dumps([p for p in {paths!r} if os.path.exists(p)]))") == []


def test_the_environment_is_empty(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAEFEAT_TEST_SECRET", "s")
    assert said(sandbox, "print(json.dumps(dict(os.environ)))") == {}
    code = (
        "import subprocess, sys\nshell = subprocess.run([sys.executable, '-c', 'import os; print(dict(os.environ))'], "
    )
    code += "capture_output=True, text=True).stdout\nprint(json.dumps(shell))"
    assert "SECRET" not in str(said(sandbox, code))


def test_other_processes_cannot_be_seen_or_killed(sandbox: Sandbox) -> None:
    code = f"""
import signal
killed = []
for pid in (1, {os.getpid()}, os.getppid()):
    try:
        os.kill(pid, signal.SIGKILL)
        killed.append(pid)
    except OSError:
        pass
print(json.dumps([killed, os.getppid(), os.getpid()]))
"""
    killed, parent, own = said(sandbox, code)  # type: ignore[misc]
    assert parent == 1
    assert own < 10
    if sandbox.method == "own user":
        assert killed == []
    assert still_works(sandbox)


def test_the_network_is_closed(sandbox: Sandbox) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        heard = []
        thread = threading.Thread(target=lambda: heard.append(_accept(server)), daemon=True)
        thread.start()
        code = f"""
import socket
reached = []
for address in (("127.0.0.1", {port}), ("192.0.2.1", 80), ("localhost", {port})):
    try:
        socket.create_connection(address, timeout=1).close()
        reached.append(address)
    except OSError:
        pass
try:
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", {port}))
    reached.append("udp")
except OSError:
    pass
print(json.dumps(reached))
"""
        assert said(sandbox, code) == []
        with socket.create_connection(("127.0.0.1", port), timeout=2):  # the server is there, and it hears us
            thread.join(5)
        assert heard == [True]


def _accept(server: socket.socket) -> bool:
    server.accept()[0].close()
    return True


def test_sockets_of_other_programs_cannot_be_reached(sandbox: Sandbox) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("\0saefeat-test-" + str(os.getpid()))
        server.listen()
        code = f"""
import socket
try:
    socket.socket(socket.AF_UNIX).connect("\\0saefeat-test-{os.getpid()}")
    print(json.dumps("reached"))
except OSError:
    print(json.dumps("refused"))
"""
        assert said(sandbox, code) == "refused"


def test_there_are_no_privileges_and_none_to_be_had(sandbox: Sandbox) -> None:
    code = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
tried = {
    "user namespace": libc.unshare(0x10000000), "mount": libc.mount(b"x", b"/box", b"tmpfs", 0, b""),
    "chroot": libc.chroot(b"/box"), "setuid": libc.setuid(0) if os.getuid() else -1,
    "mount namespace": libc.unshare(0x20000), "hostname": libc.sethostname(b"x", 1),
    "shared memory": libc.shmget(0, 1 << 26, 0o1600), "nice": libc.nice(-5),
}
print(json.dumps([name for name, result in tried.items() if result != -1]))
"""
    allowed = said(sandbox, code)
    # the owner of an IPC namespace alone may close it to shared memory, which the init does where it may
    assert set(allowed) <= ({"shared memory"} if sandbox.method == "user namespace" else set())  # type: ignore[call-overload]


def test_limits_cannot_be_raised(sandbox: Sandbox) -> None:
    code = """
import resource
raised = []
for name in ("NPROC", "AS", "CPU", "FSIZE", "NOFILE"):
    kind = getattr(resource, "RLIMIT_" + name)
    try:
        resource.setrlimit(kind, (1 << 40, 1 << 40))
        raised.append(name)
    except (ValueError, OSError):
        pass
print(json.dumps(raised))
"""
    assert said(sandbox, code) == []


# ---------------------------------------------------------------- where it does not hold
def test_a_trial_refuses_where_the_limit_of_processes_does_not_hold() -> None:
    """Root in a user namespace is exempt from the limit: the trial sees it."""
    if os.geteuid() != 0:
        assert Sandbox().method == "user namespace"
        return
    with pytest.raises(InputError, match=r"processes ran where 6 are allowed.*run on Linux"):
        Sandbox(method="user namespace")


@pytest.mark.parametrize(
    ("found", "what"),
    [
        ({"forks": 8}, "9 processes ran where 6 are allowed"),
        ({"network": "packets leave"}, "the network is open"),
        ({"written": ["/usr"]}, "/usr can be written to"),
        ({"seen": ["/etc/passwd"]}, "/etc/passwd can be seen"),
        ({"folder": False}, "its own folder cannot be written to"),
        ({"environment": ["HOME"]}, "HOME is in the environment"),
        ({"user": 0}, "it runs as root"),
    ],
)
def test_each_fault_that_a_trial_finds_is_told(
    found: dict[str, object], what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = {"forks": 5, "network": None, "written": [], "seen": [], "folder": True, "environment": [], "user": 9}
    told = f"import os; os.write(4, {json.dumps(sound | found)!r}.encode() + b'\\n')"
    monkeypatch.setattr(module, "PROBE", told)
    monkeypatch.setattr(module, "_methods", lambda: ["own user"])
    if os.geteuid() != 0:
        monkeypatch.setattr(module, "_own_user", lambda: None)
    with pytest.raises(InputError, match=what):
        Sandbox()


def test_a_launcher_that_fails_says_why(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "jail.py"
    text = module.JAIL.read_text().replace('ROOT = "/sys"', 'ROOT = "/no/such/place"')
    broken.write_text(text)
    monkeypatch.setattr(module, "JAIL", broken)
    with pytest.raises(InputError, match="mounts: mount"):
        Sandbox(method=sandbox.method)


def test_other_systems_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(InputError, match="takes the namespaces of Linux"):
        Sandbox()


def test_anybody_can_use_it_not_only_root(tmp_path: Path) -> None:
    """As a user without privileges, in a user namespace; with a Python that such a user can start."""
    if os.geteuid() != 0:
        assert Sandbox().method == "user namespace"
        return
    python, setpriv = shutil.which("python3", path="/usr/bin:/usr/local/bin:/bin"), shutil.which("setpriv")
    root = Path(module.__file__).parents[2]
    code = f"""
import importlib, sys, types
for name, folder in (("saefeat", {str(root)!r} + "/saefeat"), ("saefeat.causal", {str(root)!r} + "/saefeat/causal")):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [folder]
sandbox = importlib.import_module("saefeat.causal.sandbox").Sandbox()
print(sandbox.method, sandbox.run("print(6 * 7)").stdout.strip())
"""
    if python is None or setpriv is None or not os.access(root, os.X_OK):
        python, setpriv = sys.executable, None  # nothing to become another user with: at least the code must load
        code = code.replace(".Sandbox()", ".Limits()").replace("sandbox.method, sandbox.run", "'user namespace', str")
    as_nobody = [] if setpriv is None else [setpriv, "--reuid=54321", "--regid=54321", "--clear-groups"]
    done = subprocess.run([*as_nobody, python, "-B", "-c", code], capture_output=True, text=True, cwd="/", timeout=60)
    assert done.stdout.startswith("user namespace"), done.stderr
