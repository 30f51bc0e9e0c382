"""Several processes as one run, and processes that are killed: forks of one that has everything loaded.

For scripts that use a single thread: a fork of a process whose thread pool is at work would hang.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]


def script(module: str, function: str, *arguments: Path | str) -> subprocess.CompletedProcess[str]:
    """Run `function(*arguments)` of a test module in a process of its own, with one thread."""
    code = f"import sys, torch; torch.set_num_threads(1)\nfrom {module} import {function}\n{function}(*sys.argv[1:])"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], cwd=ROOT, env=environment, capture_output=True, text=True,
        timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done


def fork(work: Callable[[], object], **environment: str) -> int:
    """Start a child that runs `work` as the command line does: its errors in one line, their code its exit code."""
    from saefeat.cli.common import report_errors

    child = os.fork()
    if child:
        return child
    code: object = 1
    try:
        os.environ.update(environment)
        with report_errors():
            work()
        code = 0
    except SystemExit as ended:
        code = ended.code
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 1)


def ended(child: int) -> int:
    """A child's exit code; of a killed one, the signal's number below zero."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def together(size: int, work: Callable[..., object]) -> list[int]:
    """Run work(ranks) in `size` processes as torchrun would; their exit codes."""
    from saefeat.harvest import joined

    def joining() -> None:
        with joined() as ranks:
            work(ranks)

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    run = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    children = [fork(joining, RANK=str(rank), LOCAL_RANK=str(rank), **run) for rank in range(size)]
    return [ended(child) for child in children]


def dies() -> None:
    """As if the power failed."""
    os.kill(os.getpid(), signal.SIGKILL)


def dying(function: Callable[..., object], *, after: int) -> Callable[..., object]:
    """`function`, which kills the process when it is called once more than `after` times."""
    left = after

    def called(*arguments: object, **named: object) -> object:
        nonlocal left
        if not left:
            dies()
        left -= 1
        return function(*arguments, **named)

    return called
