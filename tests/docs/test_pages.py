"""README and docs/: links lead somewhere, numbers come from their formula, the site builds."""

import pkgutil
import re
import shutil
import subprocess
import sys
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

import deepfake

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(DOCS.rglob("*.md"))]
UNSEEN = re.compile(r"^```.*?^```$|`[^`\n]*`|<!--.*?-->", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


def find_links(page: Path) -> list[str]:
    """Targets in this repository."""
    found = LINK.findall(UNSEEN.sub("", page.read_text(encoding="utf-8")))
    return [target for target in found if not target.startswith(("https://", "http://"))]


def find_anchors(page: Path) -> set[str]:
    """What GitHub makes of the headings of a page."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    seen, anchors = Counter[str](), set()
    for heading in re.findall(r"^#+ +(.+)$", text, re.MULTILINE):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
        anchor = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        anchors.add(anchor if not seen[anchor] else f"{anchor}-{seen[anchor]}")
        seen[anchor] += 1
    return anchors


def list_broken(page: Path) -> list[str]:
    broken = []
    for target in find_links(page):
        name, _, anchor = target.partition("#")
        file = page.parent / name if name else page
        if not file.exists() or (anchor and anchor not in find_anchors(file)):
            broken.append(target)
    return broken


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    assert list_broken(page) == []


def test_a_link_that_leads_nowhere_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# A `b` c!\n[1](#a-b-c) [2](#a) [3](no.md)\n"
        "`[4](no.md)` <!-- [5](no.md) -->\n```\n[6](no.md)\n```\n"
    )
    assert list_broken(page) == ["#a", "no.md"]


def list_navigation(entries: list[Any]) -> list[str]:
    values = [value for entry in entries for value in entry.values()]
    return [
        page
        for value in values
        for page in ([value] if isinstance(value, str) else list_navigation(value))
    ]


def test_the_site_names_every_page_once() -> None:
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    pages = [path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")]
    assert sorted(list_navigation(settings["nav"])) == sorted(pages)


def test_the_reference_has_what_is_public() -> None:
    text = (DOCS / "api.md").read_text(encoding="utf-8")
    assert [name for name in dir(deepfake) if f"`{name}`" not in text] == []


@pytest.mark.parametrize("page", ["api.md", "api-training.md"])
def test_the_reference_names_what_exists(page: str) -> None:
    names = re.findall(r"^::: (\S+)$", (DOCS / page).read_text(encoding="utf-8"), re.MULTILINE)
    assert names
    for name in names:
        assert pkgutil.resolve_name(name) is not None


def test_base_rates_come_from_their_formula() -> None:
    text = (DOCS / "reading-scores.md").read_text(encoding="utf-8")
    (f,), (t,) = re.findall(r"rates\*\*: f = (\d+) %", text), re.findall(r", t = (\d+) %\.", text)
    fpr, tpr = int(f) / 100, int(t) / 100
    rows = re.findall(
        r"^\| ([\d.]+) %.*? \| ([\d,]+) fakes \| ([\d,]+) \| ([\d,]+) \| (\d+) % \|$", text, re.M
    )
    assert len(rows) == 4
    for row in rows:
        base, fakes, found, wrong, share = (float(cell.replace(",", "")) for cell in row)
        base /= 100
        assert fakes == pytest.approx(10_000 * base)
        assert found == pytest.approx(10_000 * tpr * base)
        assert wrong == pytest.approx(10_000 * fpr * (1 - base), abs=0.51)
        assert share == round(100 * tpr * base / (tpr * base + fpr * (1 - base)))
    assert f"here {tpr / fpr:.0f} times" in text


needs_zensical = pytest.mark.skipif(
    not (find_spec("zensical") and find_spec("mkdocstrings_handlers.python")),
    reason="the site needs pip install '.[docs]'",
)


def build_site(folder: Path) -> subprocess.CompletedProcess[str]:
    """Build what lies in a folder, but for the layout of signatures, which takes seconds."""
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    (plugin,) = (one for one in settings["plugins"] if "mkdocstrings" in one)
    plugin["mkdocstrings"]["handlers"]["python"]["options"]["separate_signature"] = False
    pages = {path.relative_to(folder / "docs") for path in (folder / "docs").rglob("*.md")}
    if "index.md" in map(str, pages) and len(pages) == 1:
        settings["nav"] = [{"Home": "index.md"}]
    (folder / "mkdocs.yml").write_text(yaml.safe_dump(settings))
    (folder / "deepfake").symlink_to(ROOT / "deepfake")
    return subprocess.run(
        [sys.executable, "-m", "zensical", "build", "--strict"],
        cwd=folder,
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
@needs_zensical
def test_the_site_builds_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    shutil.copytree(DOCS, tmp_path / "docs")
    done = build_site(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    site = tmp_path / "site"
    reference = (site / "api.html").read_text(encoding="utf-8")
    assert 'id="deepfake.Predictor.from_checkpoint"' in reference
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert re.findall(r'<(?:script|img|iframe)[^>]*src="?https?:', text) == []
        assert re.findall(r'<link[^>]*rel="?(?:stylesheet|preconnect)[^>]*https?:', text) == []


@pytest.mark.slow
@needs_zensical
@pytest.mark.parametrize(
    "text", ["[no page](no.md)", "[no anchor](#no)", "::: deepfake.no_such_name"]
)
def test_a_broken_page_ends_the_build(text: str, tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text(f"# Home\n\n{text}\n")
    assert build_site(tmp_path).returncode != 0
