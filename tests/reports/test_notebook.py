"""A real kernel runs cells: what a result and a long job show in a notebook."""

from __future__ import annotations

import json
import re
import sys
from typing import Any

import pytest

from tests.conftest import Trained

nbformat = pytest.importorskip("nbformat", reason="nbclient, of the extra dev, is not installed")
nbclient = pytest.importorskip("nbclient", reason="nbclient, of the extra dev, is not installed")
pytest.importorskip("ipykernel", reason="ipykernel, of the extra dev, is not installed")

CELLS = """
import deepfake
from deepfake.inference import predictor
predictor._PATIENCE_S = 0.0  # these few photos are a long job
results = deepfake.predict({photos!r}, checkpoint={checkpoint!r}, device="cpu")
# %%
results[:2]
# %%
results[0]
# %%
results[0].show()
# %%
results.to_frame()
# %%
deepfake.predict({photos!r} + "/nothing", checkpoint={checkpoint!r})[0]
"""


@pytest.fixture(scope="module")
def outputs(
    trained: Trained, tmp_path_factory: pytest.TempPathFactory
) -> list[list[dict[str, Any]]]:
    """What each cell shows."""
    folder = tmp_path_factory.mktemp("notebook")
    kernel = folder / "kernels" / "this"
    kernel.mkdir(parents=True)
    words = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (kernel / "kernel.json").write_text(
        json.dumps({"argv": words, "display_name": "this", "language": "python"})
    )
    text = CELLS.format(
        photos=str(trained.photos / "real" / "id000"), checkpoint=str(trained.checkpoint)
    )
    cells = [nbformat.v4.new_code_cell(cell) for cell in text.split("# %%\n")]
    notebook = nbformat.v4.new_notebook(cells=cells)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_PATH", str(folder))
        patch.setenv("IPYTHONDIR", str(folder / "ipython"))
        nbclient.NotebookClient(notebook, timeout=300, kernel_name="this").execute()
    return [cell.outputs for cell in notebook.cells]


@pytest.mark.slow
def test_a_long_job_shows_one_bar_and_nothing_else(outputs: list[list[dict[str, Any]]]) -> None:
    (bar,) = outputs[0]  # one that was drawn again in its place, no lines on standard error
    assert bar["output_type"] == "display_data"
    assert re.fullmatch(r"2/2 files, \d\d:\d\d passed", bar["data"]["text/plain"])
    assert '<progress max="2" value="2">' in bar["data"]["text/html"]


@pytest.mark.slow
def test_results_show_their_faces(outputs: list[list[dict[str, Any]]]) -> None:
    for cell, number in zip(outputs[1:4], (2, 1, 1), strict=True):
        (shown,) = cell
        html = shown["data"]["text/html"]
        assert html.count("<article>") == number
        assert html.count('src="data:image/jpeg;base64,') == number
        assert len(re.findall(r"<b>(real|unclear|fake)</b>", html)) == number
        assert html.count("1 person") == number
        assert "http" not in html
    assert "p_fake" in outputs[1][0]["data"]["text/plain"]


@pytest.mark.slow
def test_tables_and_what_has_no_answer_show_too(outputs: list[list[dict[str, Any]]]) -> None:
    (table,), (*_, missing) = outputs[4:6]
    assert "<table" in table["data"]["text/html"]
    assert "<b>unreadable</b>" in missing["data"]["text/html"]
