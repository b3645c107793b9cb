from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from deepfake.cli.command import Parser, command_line, run
from deepfake.errors import DeepfakeError, UsageError

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (KeyboardInterrupt(), 130),
        (UsageError("u"), 2),
        (DeepfakeError("d"), 1),
        (OSError("o"), 1),
    ],
    ids=["ctrl-c", "usage", "job", "system"],
)
def test_failures_are_one_line_and_a_code(
    error: BaseException, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> int:
        raise error

    assert run(fail, "advice") == code
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_a_file_that_cannot_be_written_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> int:
        raise PermissionError(13, "Permission denied", "/a/scores.csv")

    assert run(fail, "advice") == 1
    assert capsys.readouterr().err == "error: /a/scores.csv: Permission denied\n"


def test_an_error_is_told_without_the_secrets_of_addresses(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail() -> int:
        raise UsageError("https://h/list.txt?sig=secret is 2 files")

    assert run(fail, "advice") == 2
    with pytest.raises(SystemExit):
        Parser(prog="deepfake x").parse_args(["https://h/list.txt?sig=secret"])
    told = capsys.readouterr().err
    assert "https://h/list.txt?sig=... is 2 files" in told
    assert "secret" not in told


def test_nothing_that_is_told_steers_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> int:
        raise UsageError("a tensor \x1b[2J\x1b[31mof\x9b a stranger\nand\u202e one more")

    assert run(fail, "advice") == 2
    assert capsys.readouterr().err == "error: a tensor  [2J [31mof  a stranger\nand  one more\n"
    code = (
        "import logging; from deepfake.cli.command import run\n"
        "run(lambda: logging.getLogger('deepfake.x').info('model %s', '\\x1b]0;t\\x07') or 0, '')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "INFO: model  ]0;t \n"


def test_a_file_of_a_disk_is_not_named_by_an_address(capsys: pytest.CaptureFixture[str]) -> None:
    parser = Parser(prog="deepfake x")
    parser.add_argument("--page", type=Path)
    parser.add_subject("data", type=Path, help="crops")
    assert parser.parse_args(["a/b", "--page", "c//d"]).page == Path("c/d")
    for words in (["a", "--page", "s3://b/page.html"], ["s3://b/crops"]):
        with pytest.raises(SystemExit) as caught:
            parser.parse_args(words)
        assert caught.value.code == 2
        assert "lies in a store, and this is a file or folder of a disk" in capsys.readouterr().err


def test_a_command_is_told_without_the_secrets_of_its_addresses() -> None:
    words = ["https://h/a.jpg?sig=secret", "--output", "a b.csv"]
    assert command_line("predict", words) == (
        "deepfake predict 'https://h/a.jpg?sig=...' --output 'a b.csv'"
    )


MAIN = "import sys; from deepfake.cli import main; sys.exit(main())"
HALF = """\
import sys
from deepfake.cli.command import run
from deepfake.errors import UsageError


def fail() -> int:
    sys.stdout.write("half of it")
    raise UsageError("the other half")


sys.exit(run(fail, "advice"))
"""


def start(
    code: str, words: list[str], stdout: int, unbuffered: str = ""
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *words],
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": unbuffered},
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        timeout=120,
        check=False,
    )


# Python writes at once, or when it exits: both ways must be met.
@pytest.mark.parametrize("unbuffered", ["", "1"], ids=["buffered", "unbuffered"])
@pytest.mark.parametrize(
    "words", [["--help"], ["--version"], ["train", "--help"], ["crop", "--help"]], ids=" ".join
)
def test_a_reader_that_has_gone_is_no_traceback(words: list[str], unbuffered: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = start(MAIN, words, writer, unbuffered)
    os.close(writer)
    assert done.stderr == ""
    assert done.returncode == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_under_the_output_is_one_line() -> None:
    with Path("/dev/full").open("w") as full:
        done = start(MAIN, ["--help"], full.fileno())
    assert done.returncode == 1
    assert done.stderr == "error: [Errno 28] No space left on device\n"


def test_a_process_without_standard_streams_writes_into_no_other_file(tmp_path: Path) -> None:
    code = (
        "import os, sys; from deepfake.cli.command import run\n"
        "def job():\n"
        "    with open('file', 'w') as file: numbers.append(file.fileno())\n"
        "    sys.stdout.write('to nobody')\n"
        "    raise SystemExit(numbers[0])\n"
        "numbers = []; run(job, 'advice')"
    )
    words = ["sh", "-c", 'exec "$0" -c "$1" <&- >&- 2>&-', sys.executable, code]
    done = subprocess.run(words, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert done.returncode > 2, "a file of the job has the number of a standard stream"


def test_what_failed_is_told_even_where_nobody_reads_the_output() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = start(HALF, [], writer)
    os.close(writer)
    assert done.stderr == "error: the other half\n"
    assert done.returncode == 1
