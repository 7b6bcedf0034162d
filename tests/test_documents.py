"""The examples of README and docs run as written."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def examples(page: Path) -> str:
    """Return the Python blocks of a page, joined: a later one may use what an earlier one defined."""
    return "\n".join(re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.S | re.M))


@pytest.mark.parametrize("page", [p for p in PAGES if examples(p)], ids=lambda p: p.name)
def test_examples_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(examples(page), str(page), "exec"), {"__name__": "example"})


def test_links_between_pages_exist() -> None:
    missing = [
        f"{page.name}: {name}"
        for page in PAGES
        for name in re.findall(r"`(docs/[\w-]+\.md)`", page.read_text(encoding="utf-8"))
        if not (ROOT / name).exists()
    ]
    assert not missing


def test_no_page_is_left_with_a_gap() -> None:
    marks = {"<!-- run -->", "<!-- test -->"}
    left = [
        f"{page.name}: {comment}"
        for page in PAGES
        for comment in re.findall(r"<!--.*?-->", page.read_text(encoding="utf-8"), re.S)
        if comment not in marks
    ]
    assert not left
