"""What lies beside the package for people and hosts: it parses, and names what exists."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from deepfake import __version__

ROOT = Path(__file__).parents[1]
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))


def read_yaml(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


def list_targets() -> set[str]:
    return set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def test_hosted_ci_calls_make_targets_that_exist() -> None:
    jobs = read_yaml(".github/workflows/ci.yml")["jobs"]
    runs = {
        name: [step["run"] for step in job["steps"] if "run" in step] for name, job in jobs.items()
    }
    called = {
        name: re.findall(r"^make (\w+)", "\n".join(lines), re.M) for name, lines in runs.items()
    }
    assert {"check", "docs", "demo"} <= set(called["linux"])
    assert set(called["linux"] + called["untried"]) <= list_targets()
    systems = [one["system"] for one in jobs["untried"]["strategy"]["matrix"]["include"]]
    assert systems == ["macos-latest", "windows-latest"]
    assert jobs["untried"]["continue-on-error"] is True


@pytest.mark.parametrize(
    "page", ["README.md", "CONTRIBUTING.md", ".github/pull_request_template.md"]
)
def test_make_targets_that_people_are_told_exist(page: str) -> None:
    told = set(re.findall(r"(?:^|`)make ([a-z]+)", (ROOT / page).read_text(), re.MULTILINE))
    assert told
    assert told <= list_targets()


def test_hooks_are_the_tools_of_this_environment() -> None:
    (repo,) = read_yaml(".pre-commit-config.yaml")["repos"]
    assert repo["repo"] == "local"
    with (ROOT / "pyproject.toml").open("rb") as file:
        packages = tomllib.load(file)["project"]["optional-dependencies"]["dev"]
    for hook in repo["hooks"]:
        assert hook["language"] == "system"
        (tool,) = re.findall(r"^\.venv/bin/(\w+)", hook["entry"])
        assert any(re.split(r"[><=]", package)[0] == tool for package in packages)


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.name)
def test_issue_forms_have_what_the_host_asks_for(path: Path) -> None:
    form = yaml.safe_load(path.read_text(encoding="utf-8"))
    if path.name == "config.yml":
        assert form == {"blank_issues_enabled": True}
        return
    assert {"name", "description", "body"} <= set(form) <= {"name", "description", "labels", "body"}
    asked = [field for field in form["body"] if field["type"] != "markdown"]
    assert asked
    ids = [field["id"] for field in asked]
    assert len(set(ids)) == len(ids)
    for field in asked:
        assert field["type"] in ("textarea", "input", "checkboxes")
        assert field["attributes"]["label"]


def test_the_citation_is_of_this_version() -> None:
    citation = read_yaml("CITATION.cff")
    with (ROOT / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]
    assert {"cff-version", "message", "title", "authors"} <= set(
        citation
    )  # what the schema asks for
    assert citation["cff-version"] == "1.2.0"
    assert citation["authors"] == [{"name": "The deepfake authors"}]
    assert citation["version"] == __version__
    assert citation["title"] == project["name"]
    # Of the code; the weights in the box have terms of their own.
    assert citation["license"] == project["license"].split(" AND ")[0]
    assert citation["keywords"] == project["keywords"]


def test_no_merge_is_half_done() -> None:
    # Help texts and pages parse as well with the marks of a conflict in them.
    folders = [ROOT / name for name in ("deepfake", "configs", "docs", "tests", "experiments")]
    folders += [ROOT / "benchmarks", ROOT / ".github"]
    kinds = {".py", ".md", ".yaml", ".yml", ".js", ".css", ".html", ".toml"}
    files = [path for folder in folders for path in folder.rglob("*") if path.suffix in kinds]
    files += [path for path in ROOT.iterdir() if path.suffix in kinds]
    assert len(files) > 300
    mark = re.compile(r"^(<{7}|>{7}) ", re.MULTILINE)
    assert [path for path in files if mark.search(path.read_text(encoding="utf-8"))] == []


@pytest.mark.data
def test_no_page_names_where_somebody_keeps_the_data(shared_media: Path) -> None:
    # Figures are copied from what programs print, paths included.
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        assert str(shared_media.resolve()) not in page.read_text(encoding="utf-8"), page
