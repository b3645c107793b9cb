"""The recipes of docs: as much of each is tried as one machine without their schedulers can."""

from __future__ import annotations

import copy
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from packaging.requirements import Requirement

from deepfake import cli
from deepfake.errors import JobError
from deepfake.jobs.engine import Block, Work
from tests.conftest import Trained
from tests.fakes import tree_hashes, write_portraits

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "docs" / "recipes"
needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="needs the extra deepfake[ray]")

# Does at once what it is given, with the variables that SLURM sets.
_SBATCH = """#!/bin/bash
set -euo pipefail
tasks=("")
while [[ $1 == --* ]]; do
    echo "$1" >> sbatch.log
    if [[ $1 == --array=1-* ]]; then mapfile -t tasks < <(seq "${1#--array=1-}"); fi
    shift
done
export SLURM_JOB_ID=7 SLURM_CPUS_PER_TASK=0
for task in "${tasks[@]}"; do
    if [[ $task ]]; then export SLURM_ARRAY_TASK_ID=$task; fi
    bash "$@" >> tasks.log
done
echo "7;cluster"
"""
_DEEPFAKE = """#!/bin/bash
printf '%s\\n' "$(printf '%q ' "$@")" >> deepfake.log
"""


def submit(folder: Path, *words: str) -> list[list[str]]:
    """Run the SLURM recipe in a folder; the commands of deepfake that it comes to, in order."""
    tools = folder / "tools"
    tools.mkdir(exist_ok=True)
    for name, text in (("sbatch", _SBATCH), ("deepfake", _DEEPFAKE)):
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    environment = {name: value for name, value in os.environ.items() if "SLURM" not in name}
    environment["PATH"] = f"{tools}{os.pathsep}{environment['PATH']}"
    subprocess.run(
        ["bash", str(RECIPES / "slurm.sh"), *words], cwd=folder, env=environment, check=True
    )
    return [shlex.split(line) for line in (folder / "deepfake.log").read_text().splitlines()]


@pytest.mark.skipif(sys.platform == "win32", reason="a script of bash")
@pytest.mark.parametrize("command", ["crop", "predict"])
def test_a_slurm_array_and_its_merge_make_the_bytes_of_one_job(
    command: str, trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_portraits(tmp_path / "my photos", 2)
    output = {"crop": "crops", "predict": "scores.csv"}[command]
    options = {
        "crop": ["--size", "64", "--shard-size", "1"],
        "predict": ["--checkpoint", str(trained.checkpoint), "--device", "cpu"],
    }[command]
    words = [command, "my photos", *options, "--quiet"]
    assert cli.main([*words, "--output", f"here-{output}", "--workers", "0"]) == 0
    *parts, merge = submit(tmp_path, "3", output, *words)
    assert [part[part.index("--shard") + 1] for part in parts] == ["1/3", "2/3", "3/3"]
    for line in (*parts, merge):
        assert cli.main(line) == 0
    expected, found = tmp_path / f"here-{output}", tmp_path / output
    if command == "predict":
        assert found.read_bytes() == expected.read_bytes()
    else:
        assert tree_hashes(found) == tree_hashes(expected)
    lines = (tmp_path / "sbatch.log").read_text().split()
    assert lines == ["--parsable", "--array=1-3", "--dependency=afterany:7"]


@pytest.mark.skipif(sys.platform == "win32", reason="a script of bash")
@pytest.mark.parametrize("words", ["", "0 crops crop MEDIA", "2 crops train MEDIA", "part 2 crops"])
def test_the_slurm_script_says_what_it_expects(words: str) -> None:
    line = ["bash", str(RECIPES / "slurm.sh"), *words.split()]
    done = subprocess.run(line, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("expected: bash slurm.sh PARTS OUTPUT crop|predict MEDIA")


def make_object(required: str, **optional: Any) -> dict[str, Any]:
    """The schema of an object; names not said are refused."""
    names = [name for name in required.split() if name not in optional]
    return {
        "type": "object",
        "required": required.split(),
        "properties": {**dict.fromkeys(names, True), **optional},
        "additionalProperties": False,
    }


# The fields of ``ray.io/v1`` that the recipe uses, with their types, and all that are required.
# From KubeRay's own definition, a megabyte that comes in no package: helm-chart/kuberay-operator/
# crds/ray.io_rayjobs.yaml of its commit 037e91b. Its Go types of later commits (f6ef3f7 for
# RayJob, 3275ee0 for RayCluster) say the same of these fields.
_COUNT = {"type": "integer", "minimum": 0, "maximum": 2**31 - 1}
_PARAMETERS = {"type": "object", "additionalProperties": {"type": "string"}}
_WORKERS = make_object(
    "groupName minReplicas maxReplicas rayStartParams template",
    groupName={"type": "string", "minLength": 1},
    replicas=_COUNT,
    minReplicas=_COUNT,
    maxReplicas=_COUNT,
    rayStartParams=_PARAMETERS,
)
_CLUSTER = make_object(
    "headGroupSpec",
    rayVersion={"type": "string"},
    enableInTreeAutoscaling={"type": "boolean"},
    headGroupSpec=make_object("rayStartParams template", rayStartParams=_PARAMETERS),
    workerGroupSpecs={"type": "array", "items": _WORKERS},
)
RAY_JOB = make_object(
    "apiVersion kind metadata spec",
    apiVersion={"const": "ray.io/v1"},
    kind={"const": "RayJob"},
    metadata=make_object("generateName", generateName={"pattern": "^[a-z]([-a-z0-9]{0,40})$"}),
    spec=make_object(
        "entrypoint rayClusterSpec",
        entrypoint={"type": "string"},
        backoffLimit=_COUNT,
        shutdownAfterJobFinishes={"type": "boolean"},
        ttlSecondsAfterFinished=_COUNT,
        rayClusterSpec=_CLUSTER,
    ),
)


def check_job(job: dict[str, Any]) -> None:
    """Raises what is wrong with it: with the fields of KubeRay, or with a pod of Kubernetes."""
    jsonschema.validate(job, RAY_JOB)
    cluster = job["spec"]["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "one"}, **group["template"]}
        kubernetes_validate.validate(pod, "1.31", strict=True)


@pytest.fixture(scope="module")
def ray_job() -> dict[str, Any]:
    job: dict[str, Any] = yaml.safe_load((RECIPES / "kuberay.yaml").read_text(encoding="utf-8"))
    return job


def test_the_ray_job_is_what_kuberay_and_kubernetes_take(ray_job: dict[str, Any]) -> None:
    check_job(ray_job)
    cluster = ray_job["spec"]["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        mounts = {mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
        assert mounts == {volume["name"] for volume in pod["volumes"]}


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("spec/entryPoint", "deepfake", "entryPoint"),
        ("spec/ttlSecondsAfterFinished", 2**31, "2147483648 is greater than the maximum"),
        ("spec/rayClusterSpec/rayversion", "2.60.0", "rayversion"),
        ("spec/rayClusterSpec/headGroupSpec", {"template": {}}, "'rayStartParams' is a required"),
        ("spec/rayClusterSpec/workerGroupSpecs/0/rayStartParam", {}, "rayStartParam"),
        ("spec/rayClusterSpec/headGroupSpec/rayStartParams/num-cpus", 0, "0 is not of type"),
        ("spec/rayClusterSpec/workerGroupSpecs/0/maxReplicas", "20", "'20' is not of type"),
        ("spec/rayClusterSpec/headGroupSpec/template/spec/containers/0/img", "x", "img"),
        ("spec/rayClusterSpec/headGroupSpec/template/spec/containers/0/image", 7, "7 is not of"),
    ],
)
def test_a_wrong_field_of_a_ray_job_is_refused(
    path: str, value: object, message: str, ray_job: dict[str, Any]
) -> None:
    *folders, last = path.split("/")
    job = copy.deepcopy(ray_job)
    inner: Any = job
    for name in folders:
        inner = inner[int(name) if name.isdigit() else name]
    inner[last] = value
    with pytest.raises(jsonschema.ValidationError, match=message):
        check_job(job)


@needs_ray
def test_the_ray_job_runs_a_command_of_ours_on_a_ray_that_we_take(
    ray_job: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    name, *words = shlex.split(ray_job["spec"]["entrypoint"])
    assert name == "deepfake"
    assert cli.main(words) == 2  # after all options were taken: there is no such folder here
    assert words[1] in capsys.readouterr().err
    cluster = ray_job["spec"]["rayClusterSpec"]
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (taken,) = re.findall(r'^ray = \["(.+?)"\]', text, re.MULTILINE)
    assert Requirement(taken).specifier.contains(cluster["rayVersion"])
    (group,) = cluster["workerGroupSpecs"]
    (container,) = group["template"]["spec"]["containers"]
    n_cpus = int(words[words.index("--workers") + 1])
    assert int(container["resources"]["limits"]["cpu"]) % n_cpus == 0


class _Recorder:
    """Stands for Ray where there are no GPUs: keeps what it was made with."""

    def __init__(self, address: str | None, cpus: int, gpus: float) -> None:
        self.made_with = address, cpus, gpus

    def __call__(self, work: Work, blocks: Iterator[Block]) -> Iterator[Block]:
        raise JobError(f"ray of {self.made_with}")


@needs_ray
def test_the_commands_for_eight_gpus_ask_for_them(
    trained: Trained,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    page = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
    block = page.partition("## One machine with eight GPUs")[2].partition("```\n")[2]
    lines = block.partition("```")[0].splitlines()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("deepfake.jobs.ray_engine.RayEngine", _Recorder)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    write_portraits(tmp_path / "MEDIA", 1)
    (tmp_path / "MODEL").symlink_to(trained.checkpoint)
    said = []
    for line in lines:
        name, *words = shlex.split(line)
        assert name == "deepfake"
        assert cli.main([*words, "--quiet"]) != 0
        said.append(capsys.readouterr().err.splitlines()[-1])
    assert said == [
        "error: ray of (None, 12, 1.0)",
        "error: ray of (None, 12, 1.0)",
        "error: devices=8: this machine has 0 CUDA devices; use --device instead",
    ]
