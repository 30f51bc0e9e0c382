"""An atlas as one file: a .tar.gz that holds everything, also an SAE that the atlas only refers to."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from saefeat.atlas.build import SAE_FILES, SHIPPED_SAE
from saefeat.atlas.locate import MANIFEST, read_manifest
from saefeat.atlas.verify import files_of, sae_path, verify
from saefeat.errors import FormatError, InputError
from saefeat.files import atomic_directory, atomic_path

MOST_FILES, MOST_BYTES = 1_000, 64 << 30


def pack(directory: Path | str, out: Path | str) -> Path:
    """Write the atlas in `directory` to the file `out`, the same bytes for the same atlas; returns `out`.

    Raises InputError: not .tar.gz, unwritable; FormatError: the atlas is not whole.
    """
    directory, out = Path(directory), Path(out)
    if not out.name.endswith((".tar.gz", ".tgz")):
        raise InputError("is not a .tar.gz", where=out, do="choose another --out")
    problems = verify(directory)
    if problems:
        raise FormatError(f"is not whole: {problems[0]}", where=directory, do="see saefeat atlas verify")
    manifest = read_manifest(directory)
    manifest["files"] = files_of(manifest)
    files = {name: directory / name for name in manifest["files"]}
    for entry in manifest["saes"]:
        folder = sae_path(directory, entry)
        if entry["path"].startswith(SHIPPED_SAE):
            entry["path"] = f"saes/{entry['name']}"
        files |= {f"{entry['path']}/{name}": folder / name for name in SAE_FILES if (folder / name).exists()}
    with atomic_path(out) as temporary, _gzip(temporary) as archive:
        root = str(manifest["name"])
        text = (json.dumps(manifest, indent=1, ensure_ascii=False) + "\n").encode()
        _add(archive, f"{root}/{MANIFEST}", len(text), io.BytesIO(text))
        for name in sorted(files):
            with files[name].open("rb") as file:
                _add(archive, f"{root}/{name}", files[name].stat().st_size, file)
    return out


def unpack(path: Path | str, out: Path | str) -> Path:
    """Unpack an atlas into the new directory `out`; returns `out`.

    Only plain files inside the archive's one folder are taken; links, absolute paths, '..', too many files or bytes
    are refused, and nothing is left behind. Raises InputError, FormatError.
    """
    path, out = Path(path), Path(out)
    if out.exists():
        raise InputError("is there already", where=out, do="choose another --out, or remove it")
    if not path.is_file():
        raise InputError("no such file", where=path)
    with atomic_directory(out) as made:
        try:
            with tarfile.open(path, "r:gz") as archive:
                for member, inside in _members(archive, path):
                    target = made / inside
                    target.parent.mkdir(parents=True, exist_ok=True)
                    source = archive.extractfile(member)
                    assert source is not None
                    with source, target.open("wb") as file:
                        shutil.copyfileobj(source, file, 1 << 20)
        except (tarfile.TarError, EOFError, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise InputError(f"cannot be unpacked ({error.strerror})", where=out) from error
            raise FormatError(f"is not a whole .tar.gz ({error})", where=path) from error
        except Exception as error:
            if type(error).__module__ == "zlib":
                raise FormatError(f"is not a whole .tar.gz ({error})", where=path) from error
            raise
        problems = verify(made)
        if problems:
            raise FormatError(f"holds an atlas that is not whole: {problems[0]}", where=path)
    return out


def packed_name(path: Path | str) -> str:
    """The name of the packed atlas in the file `path`: the archive's one folder. Raises InputError, FormatError."""
    path = Path(path)
    if not path.is_file():
        raise InputError("no such file", where=path)
    try:
        with tarfile.open(path, "r:gz") as archive:
            first = archive.next()
    except (tarfile.TarError, EOFError, OSError) as error:
        raise FormatError(f"is not a .tar.gz ({error})", where=path) from error
    parts = PurePosixPath(first.name).parts if first is not None else ()
    if len(parts) < 2 or parts[0] in ("/", "..", "."):
        raise FormatError("is not a packed atlas", where=path)
    return parts[0]


def _members(archive: tarfile.TarFile, path: Path) -> Iterator[tuple[tarfile.TarInfo, PurePosixPath]]:
    """The archive's files with their places in the atlas; whatever is unsafe raises FormatError."""
    count = size = 0
    root = None
    for member in archive:
        name = PurePosixPath(member.name)
        count, size = count + 1, size + member.size
        if count > MOST_FILES or size > MOST_BYTES:
            raise FormatError("holds more than an atlas can", where=path)
        if name.is_absolute() or ".." in name.parts or "\\" in member.name:
            raise FormatError(f"holds a file outside its folder ({member.name})", where=path)
        if member.isdir():
            continue
        if not member.isfile():
            raise FormatError(f"holds something that is no plain file ({member.name})", where=path)
        root = root or name.parts[0]
        if len(name.parts) < 2 or name.parts[0] != root:
            raise FormatError("is not a packed atlas", where=path)
        yield member, PurePosixPath(*name.parts[1:])


def _add(archive: tarfile.TarFile, name: str, size: int, file: io.IOBase) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = size, 0o644, 0
    archive.addfile(info, file)  # type: ignore[arg-type]


class _gzip:
    """A tar archive written through gzip without a time stamp, so that the same atlas gives the same bytes."""

    def __init__(self, path: Path) -> None:
        import gzip

        self.raw = path.open("wb")
        self.zipped = gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=self.raw, mtime=0)
        self.archive = tarfile.open(fileobj=self.zipped, mode="w", format=tarfile.PAX_FORMAT)  # noqa: SIM115

    def __enter__(self) -> tarfile.TarFile:
        return self.archive

    def __exit__(self, *_: object) -> None:
        self.archive.close()
        self.zipped.close()
        self.raw.close()
