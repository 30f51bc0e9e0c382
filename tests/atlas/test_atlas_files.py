"""An atlas on disk: found by name, whole or refused, packed and unpacked, of one model only."""

import importlib
import io
import json
import shutil
import tarfile
from pathlib import Path

import pytest

from saefeat.atlas import Atlas, build_atlas, find_atlas, list_atlases, pack, packed_name, unpack, verify
from saefeat.errors import FormatError, InputError, ModelMismatch, UnknownName
from saefeat.label import pool_tokens
from saefeat.subject import load_subject
from tests.tiny import tiny_subject

FILES = ("labels.parquet", "prototypes.safetensors", "stories.faiss", "examples.h5")


@pytest.fixture
def copy(tiny_root: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_root / "indexes" / "tiny", tmp_path / "copy"))


def use(directory: Path) -> None:
    """Ask an atlas everything."""
    atlas = Atlas.open(directory, dtype="float32")
    list(atlas.nearest(["The rent was due."]))
    atlas.similar("The rent")
    atlas.feature(atlas.features("joyful")[0]["feature"])


# ---------------------------------------------------------------- whole
def test_a_fresh_atlas_is_whole_and_says_where_it_comes_from(tiny_atlas: Atlas) -> None:
    assert tiny_atlas.verify() == []
    manifest = tiny_atlas.manifest
    assert (manifest["format"], manifest["format_version"], manifest["name"]) == ("atlas", 3, "tiny")
    assert "No claim" in manifest["statement"]
    assert set(manifest["files"]) == set(FILES)
    modes = {path.stat().st_mode & 0o777 for path in tiny_atlas.directory.rglob("*") if path.is_file()}
    assert modes == {(tiny_atlas.directory / "atlas.json").stat().st_mode & 0o777}  # others can read all or nothing
    assert manifest["saes"][0]["path"] == "saes/L1"
    assert manifest["provenance"]["label"]["corpus"]["stories"] == 24
    assert str(Path.home()) not in json.dumps(manifest["provenance"])
    assert all(readout["stands_out"] is not None for readout in manifest["readouts"])


@pytest.mark.parametrize("name", [*FILES, "saes/L1/sae_weights.safetensors"])
@pytest.mark.parametrize("damage", ["missing", "cut", "empty", "other bytes"])
def test_damage_is_found_and_refused(copy: Path, name: str, damage: str) -> None:
    path = copy / name
    whole = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes({"cut": whole[: len(whole) // 2], "empty": b"", "other bytes": b"\x93garbage" * 50}[damage])
    problems = verify(copy)
    assert len(problems) == 1
    assert Path(name).name in problems[0] or "saes/L1" in problems[0]
    with pytest.raises(FormatError):
        use(copy)


def test_a_flipped_byte_in_the_sae_is_refused(copy: Path) -> None:
    path = copy / "saes" / "L1" / "sae_weights.safetensors"
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    with pytest.raises(FormatError, match="SHA-256 differs"):
        use(copy)


def edit(directory: Path, **changes: object) -> None:
    path = directory / "atlas.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_an_atlas_of_format_1_still_answers_with_its_plain_means(copy: Path) -> None:
    manifest = json.loads((copy / "atlas.json").read_text(encoding="utf-8"))
    for readout in manifest["readouts"]:
        for later in ("power", "frame", "also", "below", "share"):
            readout.pop(later)
    edit(copy, format_version=1, readouts=manifest["readouts"])
    old = Atlas.open(copy)
    assert old.readout_config("story").power == 1.0
    text = "The dog slept, and the rain went on."
    _, acts_TF, usable_T = pool_tokens(old.subject(), text, old.readout_config("story"), old.sae())
    mean_F = acts_TF[usable_T].mean(0)
    answer = next(old.nearest([text], top=None))
    assert answer["stands_out"] is None
    expected_E = mean_F @ old.prototypes["story"].W_FE + old.prototypes["story"].bias_E
    assert answer["emotions"][0]["score"] == pytest.approx(expected_E.max(), abs=1e-3)


def test_an_atlas_of_format_2_is_read_and_packed_without_its_second_copy_of_the_prototypes(
    copy: Path, tmp_path: Path
) -> None:
    text = "The dog slept, and the rain went on."
    before = next(Atlas.open(copy).nearest([text]))
    manifest = json.loads((copy / "atlas.json").read_text(encoding="utf-8"))
    for readout in manifest["readouts"]:
        readout.pop("dialogues")
    (copy / "emotions.faiss").write_bytes(b"whatever")
    edit(copy, format_version=2, readouts=manifest["readouts"], files={**manifest["files"], "emotions.faiss": "0" * 64})
    assert verify(copy) == []
    assert next(Atlas.open(copy).nearest([text])) == before
    unpacked = unpack(pack(copy, tmp_path / "old.tar.gz"), tmp_path / "old")
    assert not (unpacked / "emotions.faiss").exists()
    assert next(Atlas.open(unpacked).nearest([text])) == before


def test_newer_and_foreign_manifests_are_refused(copy: Path) -> None:
    edit(copy, format_version=4)
    with pytest.raises(FormatError, match=r"format 4.*upgrade saefeat"):
        Atlas.open(copy)
    edit(copy, format_version=1, format="labels")
    with pytest.raises(FormatError, match="is not the manifest of a atlas"):
        Atlas.open(copy)
    (copy / "atlas.json").write_text("{")
    with pytest.raises(FormatError, match="cannot be read"):
        Atlas.open(copy)
    (copy / "atlas.json").write_text('{"format": "atlas", "format_version": 1}')
    with pytest.raises(FormatError, match="incomplete"):
        Atlas.open(copy)


def test_a_manifest_cannot_reach_outside_the_atlas(copy: Path) -> None:
    entry = Atlas.open(copy).manifest["saes"][0]
    for path in ("../sae", "/etc", "checkpoints:../../x"):
        edit(copy, saes=[{**entry, "path": path}])
        with pytest.raises(FormatError, match="outside"):
            Atlas.open(copy).sae()


# ---------------------------------------------------------------- one model only
def test_another_model_is_refused(tiny_atlas: Atlas) -> None:
    wider = tiny_subject(layers=4)
    with pytest.raises(ModelMismatch, match="architecture"):
        Atlas.open(tiny_atlas.directory, subject=wider)
    with pytest.raises(ModelMismatch, match="architecture"):
        Atlas.open(tiny_atlas.directory, subject=wider, allow_other_weights=True)


def test_other_weights_are_refused_unless_allowed_and_then_recorded(tiny_atlas: Atlas) -> None:
    other = tiny_subject(seed=1)
    with pytest.raises(ModelMismatch, match=r"weights.*--allow-other-weights"):
        Atlas.open(tiny_atlas.directory, subject=other)
    atlas = Atlas.open(tiny_atlas.directory, subject=other, allow_other_weights=True)
    assert next(atlas.nearest(["The rent was due."]))["other_weights"] is True
    assert atlas.similar("The rent")["other_weights"] is True
    assert "other_weights" not in next(tiny_atlas.nearest(["The rent was due."]))


# ---------------------------------------------------------------- found by name
def test_names_are_looked_up_here_then_at_home(
    tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = tiny_root / "indexes" / "tiny"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SAEFEAT_HOME", str(tmp_path / "home"))
    with pytest.raises(UnknownName, match="unknown atlas 'tiny'"):
        find_atlas("tiny")
    at_home = Path(shutil.copytree(made, tmp_path / "home" / "indexes" / "tiny"))
    assert find_atlas("tiny") == at_home
    shutil.copytree(made, tmp_path / "indexes" / "tiny")
    assert find_atlas("tiny").resolve() == tmp_path / "indexes" / "tiny"
    assert find_atlas(at_home) == at_home
    with pytest.raises(UnknownName, match="did you mean 'tiny'"):
        find_atlas("tinny")
    with pytest.raises(FormatError, match="is not an atlas"):
        find_atlas(tmp_path)
    rows = [row for row in list_atlases() if row["place"] != "shipped"]
    assert [(row["name"], row["place"], row["emotions"]) for row in rows] == [("tiny", "here", 4)]
    (tmp_path / "indexes" / "tiny" / "atlas.json").write_text("[]")
    assert "error" in list_atlases()[0]


# ---------------------------------------------------------------- building
def test_building_replaces_only_an_atlas_and_leaves_nothing_half(tiny_root: Path, tmp_path: Path) -> None:
    subject = load_subject(str(tiny_root / "model"), dtype="float32")
    labels, sae = tiny_root / "labels", tiny_root / "sae"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="is there already and is no atlas"):
        build_atlas(labels, [sae], tmp_path / "mine", subject=subject)
    first = build_atlas(labels, [sae], tmp_path / "made", subject=subject)
    assert build_atlas(labels, [sae], tmp_path / "made", subject=subject) == first
    assert verify(first) == []

    def fail(done: int, total: int) -> None:
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        build_atlas(labels, [sae], tmp_path / "killed", subject=subject, on_progress=fail)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made", "mine"]


def test_building_refuses_what_does_not_belong_together(tiny_root: Path, tmp_path: Path) -> None:
    from tests.tiny_atlas import write_sae

    subject = load_subject(str(tiny_root / "model"), dtype="float32")
    other = write_sae(tmp_path / "other", subject, seed=1)
    with pytest.raises(InputError, match="made with another L1"):
        build_atlas(tiny_root / "labels", [other], tmp_path / "a", subject=subject)
    with pytest.raises(InputError, match="no SAE given"):
        build_atlas(tiny_root / "labels", [], tmp_path / "a", subject=subject)
    with pytest.raises(ModelMismatch):
        build_atlas(tiny_root / "labels", [tiny_root / "sae"], tmp_path / "a", subject=tiny_subject(layers=4))
    with pytest.raises(FormatError):
        build_atlas(tmp_path, [tiny_root / "sae"], tmp_path / "a", subject=subject)
    assert not (tmp_path / "a").exists()


def test_a_shipped_sae_is_referred_to_not_copied(
    tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("saefeat.atlas.build", "saefeat.atlas.verify"):
        monkeypatch.setattr(importlib.import_module(module), "shipped", lambda kind: tmp_path / kind)
    sae = Path(shutil.copytree(tiny_root / "sae", tmp_path / "checkpoints" / "tiny-l1"))
    subject = load_subject(str(tiny_root / "model"), dtype="float32")
    made = build_atlas(tiny_root / "labels", [sae], tmp_path / "atlas", subject=subject)
    assert Atlas.open(made).manifest["saes"][0]["path"] == "checkpoints:tiny-l1"
    assert not (made / "saes").exists()
    assert verify(made) == []
    packed = pack(made, tmp_path / "atlas.tar.gz")
    shutil.rmtree(sae)
    assert "missing" in verify(made)[0]
    assert verify(unpack(packed, tmp_path / "again")) == []  # a packed atlas brings its SAE


# ---------------------------------------------------------------- one file
def test_pack_and_unpack_give_the_same_atlas(tiny_atlas: Atlas, tmp_path: Path) -> None:
    first, second = (pack(tiny_atlas.directory, tmp_path / f"{n}.tar.gz") for n in (1, 2))
    assert first.read_bytes() == second.read_bytes()
    assert packed_name(first) == "tiny"
    made = unpack(first, tmp_path / "again")
    for name in FILES:
        assert (made / name).read_bytes() == (tiny_atlas.directory / name).read_bytes()
    again = Atlas.open(made, subject=tiny_atlas.subject())
    text = "The rent was due."
    assert next(again.nearest([text])) == next(tiny_atlas.nearest([text]))
    with pytest.raises(InputError, match="is there already"):
        unpack(first, tmp_path / "again")


def test_packing_refuses_a_damaged_atlas_and_a_wrong_name(copy: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is not a \.tar\.gz"):
        pack(copy, tmp_path / "x.zip")
    (copy / "stories.faiss").unlink()
    with pytest.raises(FormatError, match=r"stories\.faiss is missing"):
        pack(copy, tmp_path / "x.tar.gz")
    assert not (tmp_path / "x.tar.gz").exists()


@pytest.mark.parametrize("kind", ["cut", "text", "escape", "absolute", "link", "two roots", "no atlas"])
def test_unpacking_takes_only_a_whole_safe_archive(tiny_atlas: Atlas, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "bad.tar.gz"
    if kind == "cut":
        whole = pack(tiny_atlas.directory, tmp_path / "good.tar.gz").read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
    elif kind == "text":
        path.write_text("hello")
    else:
        names = {
            "escape": ["tiny/../../evil"], "absolute": ["/tmp/evil"], "link": ["tiny/link"],
            "two roots": ["tiny/a", "other/b"], "no atlas": ["tiny/readme"],
        }[kind]  # fmt: skip
        with tarfile.open(path, "w:gz") as archive:
            for name in names:
                info = tarfile.TarInfo(name)
                if kind == "link":
                    info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
                    archive.addfile(info)
                else:
                    info.size = 1
                    archive.addfile(info, io.BytesIO(b"x"))
    with pytest.raises(FormatError):
        unpack(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "evil").exists()


def test_unpacking_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        unpack(tmp_path / "none.tar.gz", tmp_path / "out")
    with pytest.raises(InputError, match="no such file"):
        packed_name(tmp_path / "none.tar.gz")
