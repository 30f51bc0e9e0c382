"""What README says is what the committed results say."""

import importlib.util
import json
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_table_of_results_in_the_readme_is_made_from_the_results() -> None:
    spec = importlib.util.spec_from_file_location("compare", ROOT / "docs" / "results" / "compare.py")
    assert spec is not None
    assert spec.loader is not None
    compare = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(compare)
    paths = sorted((ROOT / "docs" / "results").glob("*/results.json"))
    loaded = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    assert loaded
    made = compare.table(loaded)
    assert made.count("\n") > len(compare.LINES)
    assert made in (ROOT / "README.md").read_text(encoding="utf-8")
    for path in paths:
        for name in ("report.md", "report.html"):
            assert (path.parent / name).exists()


def test_files_named_in_the_documentation_exist() -> None:
    import re

    for page in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), ROOT / "corpora" / "README.md"):
        for name in re.findall(
            r"`((?:docs|tests|saefeat|corpora|checkpoints|indexes)/[\w./-]+)`", page.read_text(encoding="utf-8")
        ):
            assert (ROOT / name).exists(), f"{page}: {name}"
