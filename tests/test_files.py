"""Files survive a crash: nothing half-written, one writer at a time, formats checked."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saefeat import files
from saefeat.errors import Busy, FormatError, InputError


def test_a_failed_write_leaves_the_old_file_and_no_debris(tmp_path: Path) -> None:
    target = tmp_path / "a.json"
    files.write_json(target, {"n": 1})
    with pytest.raises(RuntimeError, match="boom"), files.atomic_path(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError("boom")
    assert '"n": 1' in target.read_text()
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_failed_directory_leaves_the_old_one(tmp_path: Path) -> None:
    target = tmp_path / "d"
    with files.atomic_directory(target) as temporary:
        (temporary / "x").write_text("old")
        (temporary / "x").chmod(0o600)
    assert (target / "x").stat().st_mode & 0o444 == 0o444  # what one user makes others can read
    with pytest.raises(RuntimeError), files.atomic_directory(target) as temporary:
        (temporary / "x").write_text("new")
        raise RuntimeError
    assert (target / "x").read_text() == "old"
    with files.atomic_directory(target) as temporary:
        (temporary / "y").write_text("new")
    assert sorted(p.name for p in target.iterdir()) == ["y"]
    assert [p.name for p in tmp_path.iterdir()] == ["d"]


def test_an_unwritable_place_is_the_users_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write here"), files.atomic_path(tmp_path / "file" / "inside"):
        pass


HOLD = """
import sys, time
from saefeat.files import directory_lock
with directory_lock(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_writer_is_refused_and_a_killed_one_frees_the_lock(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(Busy, match=f"pid {holder.pid} on "), files.directory_lock(tmp_path):
        pass
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    time.sleep(0.05)
    with files.directory_lock(tmp_path):
        assert f"pid {os.getpid()}" in (tmp_path / ".lock").read_text()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read"),
        ('{"format": "b", "format_version": 1}', "is not the manifest of a a"),
        ('{"format": "a", "format_version": 9}', "upgrade saefeat"),
    ],
)
def test_a_bad_manifest_says_what_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "m.json").write_text(text)
    with pytest.raises(FormatError, match=message):
        files.read_json(tmp_path / "m.json", kind="a", version=1)


def test_disk_is_checked_before_work(tmp_path: Path) -> None:
    files.require_disk(tmp_path / "not" / "yet", 1)
    with pytest.raises(InputError, match="GB of disk"):
        files.require_disk(tmp_path, 10**18)


@given(st.dictionaries(st.text(), st.integers() | st.text(), min_size=2))
def test_a_fingerprint_does_not_depend_on_the_order_of_keys(value: dict[str, object]) -> None:
    assert files.fingerprint(value) == files.fingerprint(dict(reversed(value.items())))
