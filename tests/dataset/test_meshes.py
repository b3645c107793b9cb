"""Face meshes beside the crops: as they are located, kept, merged, checked."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from deepfake.cli import main
from deepfake.dataset.crop_folder import MESH_FILE, MeshFiles
from deepfake.dataset.manifest import read_manifest
from deepfake.dataset.merging import merge_crops
from deepfake.demo.people import portrait_geometry
from deepfake.errors import JobError, UsageError
from deepfake.faces.extraction import FaceExtractor
from deepfake.jobs.parts import JobPart
from deepfake.learning.batches import SampleKey
from deepfake.learning.crops import CropDataset
from deepfake.media.discovery import discover
from deepfake.records import CropSpec, Workers
from tests.dataset.made_jobs import SPEC, run, run_part
from tests.fakes import portrait, tree_hashes, write_photo, write_portraits

N_PHOTOS = 5


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos, and their crops with meshes, in shards of two."""
    folder = tmp_path_factory.mktemp("done")
    photos = write_portraits(folder / "photos", N_PHOTOS)
    run(photos, folder / "crops", landmarks="mesh", shard_size=2)
    return folder


def read_all(root: Path) -> dict[str, np.ndarray]:
    """The mesh of every crop, by the id of its input."""
    meshes = MeshFiles()
    found = {row.source: meshes.read(root / row.crop) for row in read_manifest(root).rows}
    assert all(mesh is not None for mesh in found.values())
    return {name: mesh for name, mesh in found.items() if mesh is not None}


def test_each_crop_has_the_mesh_of_its_face(done: Path) -> None:
    stored = read_all(done / "crops")
    extractor = FaceExtractor(SPEC, landmarks="mesh")
    plain = FaceExtractor(SPEC)
    for source in discover(done / "photos").sources:
        (crop,) = extractor.extract(source).crops
        assert crop.mesh is not None
        assert np.array_equal(stored[source.id], crop.mesh)
        assert crop.mesh.shape == (468, 2)
        # In pixels of the crop: around its middle, and hardly out of it.
        assert np.abs(crop.mesh.mean(axis=0) - SPEC.size / 2).max() < SPEC.size / 6
        (same,) = plain.extract(source).crops
        assert same.mesh is None
        assert same.encoded == crop.encoded
    assert len(stored) == N_PHOTOS


def test_a_crop_of_others_has_a_mesh_and_can_be_blended(tmp_path: Path) -> None:
    spec = CropSpec.from_preset("whole", size=96)
    write_photo(tmp_path / "photos" / "real" / "a.png", portrait(1, 0, 192)[24:168, 24:168])
    run(tmp_path / "photos", tmp_path / "crops", spec, landmarks="mesh")
    (row,) = rows = read_manifest(tmp_path / "crops").rows
    assert row.landmarks == ()
    dataset = CropDataset(tmp_path / "crops", rows, 96)
    points = dataset.points(row)
    assert points is not None
    drawn = (portrait_geometry(1, 0, size=192).points[:2] - 24) * 96 / 144
    eyes = [points[[33, 133]].mean(axis=0), points[[362, 263]].mean(axis=0)]
    assert np.abs(np.stack(eyes) - drawn).max() < 4
    assert dataset.blend_sources.tolist() == [0]
    blend = dataset[SampleKey(0, 0, augment=False, blend=True)]
    assert not torch.equal(blend["image"], dataset[0]["image"])


@pytest.mark.slow  # a process imports torch
def test_processes_write_the_same_bytes(done: Path, tmp_path: Path) -> None:
    workers = Workers(1)
    run(done / "photos", tmp_path / "crops", landmarks="mesh", shard_size=2, workers=workers)
    assert tree_hashes(tmp_path / "crops") == tree_hashes(done / "crops")


def test_meshes_of_unchanged_inputs_are_kept(done: Path, tmp_path: Path) -> None:
    photos = Path(shutil.copytree(done / "photos", tmp_path / "photos"))
    crops = Path(shutil.copytree(done / "crops", tmp_path / "crops"))
    write_photo(photos / "real" / "id0" / "000.png", portrait(7, 2, 96))
    run(photos, crops, landmarks="mesh", shard_size=2)
    run(photos, tmp_path / "anew", landmarks="mesh", shard_size=2)
    assert tree_hashes(crops) == tree_hashes(tmp_path / "anew")


def test_parts_bring_their_meshes(done: Path, tmp_path: Path) -> None:
    parts = [tmp_path / f"part{number}" for number in (1, 2)]
    for number, part in enumerate(parts, start=1):
        run_part(done / "photos", part, JobPart(number, 2), 2, landmarks="mesh")
    merge_crops(tmp_path / "crops", parts)
    whole, merged = read_all(done / "crops"), read_all(tmp_path / "crops")
    assert whole.keys() == merged.keys()
    assert all(np.array_equal(whole[name], merged[name]) for name in whole)


def test_crops_without_meshes_have_none(done: Path, tmp_path: Path) -> None:
    run(done / "photos", tmp_path / "crops")
    row = read_manifest(tmp_path / "crops").rows[0]
    assert MeshFiles().read(tmp_path / "crops" / row.crop) is None
    with pytest.raises(UsageError, match="was begun with landmarks='five', now it is 'mesh'"):
        run(done / "photos", tmp_path / "crops", landmarks="mesh")


@pytest.mark.parametrize("damage", ["cut", "gone", "other", "a link"])
def test_meshes_that_are_not_as_written_are_refused(
    done: Path, tmp_path: Path, damage: str
) -> None:
    crops = Path(shutil.copytree(done / "crops", tmp_path / "crops"))
    row = read_manifest(crops).rows[0]
    path = (crops / row.crop).parents[1] / MESH_FILE
    data = path.read_bytes()
    if damage == "gone":
        path.unlink()
    elif damage == "a link":
        path.symlink_to(path.rename(tmp_path / "the same"))
    else:
        path.write_bytes(data[:-20] if damage == "cut" else data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(JobError, match=r"mesh\.safetensors is not as it was written"):
        MeshFiles().read(crops / row.crop)


def test_the_command_asks_for_them(done: Path, tmp_path: Path) -> None:
    words = ["crop", str(done / "photos"), str(tmp_path / "crops"), "--size", "64", "--quiet"]
    assert main([*words, "--landmarks", "mesh", "--workers", "0"]) == 0
    stored, expected = read_all(tmp_path / "crops"), read_all(done / "crops")
    assert all(np.array_equal(stored[name], expected[name]) for name in expected)
