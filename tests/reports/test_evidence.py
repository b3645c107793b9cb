"""What makes a page evidence: file, run and model stand on it, escaped, and it can be printed."""

from __future__ import annotations

import hashlib
import html
import shutil
import subprocess
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from deepfake import __version__, cli
from deepfake.evaluation.job import describe_origin
from deepfake.inference.predictor import Predictor
from deepfake.media.credentials import Credentials, CredentialState
from deepfake.media.inspection import FileFacts
from deepfake.media.provenance import make_tags
from deepfake.records import Aggregation, Workers
from deepfake.reports.evidence import describe_run
from deepfake.reports.explain_page import format_explanation
from deepfake.reports.prediction_page import digest_scores, format_prediction_report
from tests.evaluation.browser import BROWSER, browse
from tests.evaluation.conftest import Files, Made, explain_made, make_scores
from tests.fakes import portrait

HOSTILE = "<script>alert('7')</script>\u202e"
TIMES = datetime(2026, 11, 29, 5, 0, tzinfo=UTC), datetime(2026, 11, 29, 6, 30, 1, tzinfo=UTC)


def make_page(made: Made, facts: dict[int, FileFacts], n_copies: int = 1) -> str:
    predictor = Predictor(made.checkpoint, device="cpu", workers=Workers(0, timeout_s=12.5))
    run = describe_run(predictor, TIMES, f"case {HOSTILE}", f"analyst {HOSTILE}", extra=[1, 2.5])
    scores, thumbnails = make_scores()
    origin = describe_origin(made.checkpoint, "") | {"run": run}
    digest = digest_scores(scores * n_copies)
    return format_prediction_report(digest, thumbnails, origin, predictor.judge.limits, facts)


def test_a_page_tells_of_the_run_and_the_model(made: Made) -> None:
    page = make_page(made, {})
    text = html.unescape(page)
    assert "<script" not in page
    assert "\u202e" not in page
    for who in ("case", "analyst"):
        assert f"<dd>{who} &lt;script&gt;alert(" in page
    assert "2026-11-29 05:00:00 UTC to 2026-11-29 06:30:01 UTC" in text
    assert f"by deepfake {__version__}" in text
    for words in (
        made.checkpoint.sha256,
        "frames 16, mode exact, max frames 1000, detect every 1",
        "policy mean",
        "preset square, size 32",
        "<dt>backend</dt><dd>torch</dd>",
        "<dt>time limit of a file</dt><dd>12.5 s</dd>",
        "<dt>extra</dt><dd>1 2.5</dd>",
        made.checkpoint.info["manifest_sha256"],
    ):
        assert words in text
    counts = made.checkpoint.info["counts"]["train"]
    assert f"train: {counts['real']} real, {counts['fake']} fake (crops)" in text


def test_a_page_tells_of_its_files_and_obeys_none(made: Made) -> None:
    tags = make_tags([("PNG parameters", HOSTILE), (HOSTILE, "x")])
    facts = {
        state: FileFacts(
            sha256=f"{number:01x}" * 64,
            n_bytes=1234567,
            facts=(("format", f"PNG {HOSTILE}"),),
            tags=tags,
            credentials=Credentials(state, HOSTILE, ((HOSTILE, HOSTILE),)),
            problem=HOSTILE,
        )
        for number, state in enumerate(CredentialState, 10)
    }
    for state, one in facts.items():
        page = make_page(made, {0: one, 1: one})  # with a score, and without
        assert "<script" not in page
        assert "\u202e" not in page
        text = html.unescape(page)
        assert text.count(one.sha256) == 2
        assert "1,234,567 bytes" in text
        assert text.count(f"<b>{state.value}</b>") == 2
        assert "settings of a generator of images" in text
        # A claim never touches the score.
        assert text.count("with score") == make_page(made, {}).count("with score")


def test_predict_and_explain_write_evidence(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inbox = tmp_path / "in"
    inbox.mkdir()
    info = PngImagePlugin.PngInfo()
    info.add_text("parameters", f"Steps: 20 {HOSTILE[:-1]}")
    Image.fromarray(portrait(1)).save(inbox / "face.png", pnginfo=info)
    cv2.imwrite(str(inbox / "wall.png"), np.full((90, 90, 3), 90, np.uint8))
    words = ["--checkpoint", str(made.path), "--quiet", "--workers", "0", "--device", "cpu"]
    who = ["--case", "A & B", "--analyst", "<i>me</i>"]
    report, why = tmp_path / "report.html", tmp_path / "why.html"
    predict = ["predict", str(inbox), *words, "--output", str(tmp_path / "s.csv")]
    assert cli.main([*predict, *who]) == 2
    assert "name it with --report FILE" in capsys.readouterr().err
    assert cli.main([*predict, "--report", str(report), *who]) == 0
    explain = ["explain", str(inbox / "face.png"), *words, "--output", str(why)]
    assert cli.main([*explain, "--top-frames", "3", *who]) == 0
    for path, files in ((report, ("face.png", "wall.png")), (why, ("face.png",))):
        page = path.read_text(encoding="utf-8")
        for name in files:
            assert hashlib.sha256((inbox / name).read_bytes()).hexdigest() in page
        assert "<dd>A &amp; B</dd>" in page
        assert "<dd>&lt;i&gt;me&lt;/i&gt;</dd>" in page
        assert "<script" not in page
        assert "Steps: 20 &lt;script&gt;" in page
        assert "160 x 160 px" in page
        assert f"{datetime.now(UTC):%Y-%m-%d}" in page
    assert "<dt>top frames</dt><dd>3</dd>" in why.read_text(encoding="utf-8")
    # Tables hold no time, and a page keeps that of its job.
    before = report.read_bytes()
    assert cli.main([*predict, "--report", str(report), *who]) == 0
    assert report.read_bytes() == before
    table = (tmp_path / "s.csv").read_text()
    assert f"{datetime.now(UTC):%Y-%m-%d}" not in table


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no chromium to print the pages with")
@pytest.mark.skipif(shutil.which("pdftoppm") is None, reason="no pdftoppm to see the prints with")
@pytest.mark.parametrize("kind", ["predict", "explain"])
def test_no_printed_page_is_half_empty(kind: str, made: Made, files: Files, tmp_path: Path) -> None:
    facts = FileFacts("a" * 64, 9, tuple((f"stream {n}", "video, h264") for n in range(9)))
    text = make_page(made, dict.fromkeys(range(400), facts), n_copies=10)
    if kind == "explain":
        found = explain_made(made, files.clip, train_crops=made.crops, n_neighbours=5)
        found = replace(found, top_frames=found.top_frames * 3)
        origin = describe_origin(made.checkpoint, "")
        text = format_explanation(found, Aggregation(), origin, facts)
    (tmp_path / "page.html").write_text(text, encoding="utf-8")
    pdf, options = tmp_path / "page.pdf", ["--no-pdf-header-footer"]
    browse(tmp_path, *options, f"--print-to-pdf={pdf}", (tmp_path / "page.html").as_uri())
    subprocess.run(["pdftoppm", "-r", "30", "-gray", str(pdf), str(tmp_path / "p")], check=True)
    pages = [np.asarray(Image.open(path)) for path in sorted(tmp_path.glob("p-*.pgm"))]
    assert len(pages) > 2
    assert all(abs(page.shape[0] / page.shape[1] - 2**0.5) < 0.02 for page in pages)  # A4
    for page in pages[:-1]:
        rows = np.flatnonzero((page < 200).any(axis=1))
        assert rows[-1] > 0.6 * page.shape[0]
