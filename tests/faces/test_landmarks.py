"""The face mesh against what LiteRT makes of MediaPipe's own file, and on turned frames."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from deepfake.demo.people import portrait_geometry
from deepfake.demo.portraits import draw_portrait
from deepfake.faces.landmarks import INPUT_SIZE, N_POINTS, FaceMesh
from deepfake.records import Face
from tests.fakes import Picture

REFERENCE = Path(__file__).with_name("face_mesh_litert.npz")
# Of the mesh: the corners of each eye, and of the mouth.
EYES, MOUTH = ([33, 133], [362, 263]), [61, 291]


@pytest.fixture(scope="module")
def mesh() -> FaceMesh:
    return FaceMesh()


def drawn_face(size: int = 256) -> tuple[Picture, Face]:
    """A portrait, and its face as a detector would box it."""
    points = portrait_geometry(1, 0, size=size).points.astype(np.float32)
    apart = float(points[1, 0] - points[0, 0])
    x, y = points.mean(axis=0)
    box = np.array([x - apart, y - 1.4 * apart, x + apart, y + 1.2 * apart], np.float32)
    return draw_portrait(1, 0, size=size), Face(box, 1.0, points)


def centres(points: np.ndarray) -> np.ndarray:
    """Both eyes, and the corners of the mouth, ``(4, 2)``."""
    return np.stack([*(points[eye].mean(axis=0) for eye in EYES), *points[MOUTH]])


def test_the_network_is_litert_s(mesh: FaceMesh) -> None:
    reference = np.load(REFERENCE)
    portraits = np.stack(
        [draw_portrait(who, 0, size=INPUT_SIZE) for who in range(len(reference["points"]))]
    )
    assert portraits.sum(axis=(1, 2, 3), dtype=np.int64).tolist() == (
        reference["pixel_sums"].tolist()
    ), "the portraits are drawn otherwise now: run experiments/face_mesh.py again"
    with torch.inference_mode():
        points, presence = mesh.network(torch.from_numpy(portraits).permute(0, 3, 1, 2) / 255)
    assert points.shape == (4, N_POINTS, 3)
    np.testing.assert_allclose(points, reference["points"], atol=1e-3)
    np.testing.assert_allclose(presence, reference["presence"], atol=1e-3)


def test_points_lie_on_the_face(mesh: FaceMesh) -> None:
    frame, face = drawn_face()
    points = mesh.locate(frame, [face])[0]
    assert points.shape == (N_POINTS, 2)
    apart = np.linalg.norm(face.landmarks[1] - face.landmarks[0])
    off = np.linalg.norm(centres(points) - face.landmarks[[0, 1, 3, 4]], axis=1)
    assert off.max() < 0.2 * apart


@pytest.mark.parametrize("degrees", [-25, 20])
def test_a_turned_face_has_the_same_points_turned(mesh: FaceMesh, degrees: int) -> None:
    frame, face = drawn_face()
    affine = cv2.getRotationMatrix2D((128, 128), degrees, 1.0)
    turned = cv2.warpAffine(frame, affine, (256, 256), borderMode=cv2.BORDER_REPLICATE)

    def turn(points: np.ndarray) -> np.ndarray:
        return (points @ affine[:, :2].T + affine[:, 2]).astype(np.float32)

    x0, y0, x1, y1 = face.box_xyxy
    middle = turn(np.array([[(x0 + x1) / 2, (y0 + y1) / 2]]))[0]
    half = np.array([x1 - x0, y1 - y0]) / 2
    box = np.concatenate([middle - half, middle + half]).astype(np.float32)
    found = mesh.locate(np.asarray(turned), [Face(box, 1.0, turn(face.landmarks))])[0]
    expected = turn(mesh.locate(frame, [face])[0])
    assert np.linalg.norm(found - expected, axis=1).mean() < 1.5


def test_larger_frames_have_larger_faces(mesh: FaceMesh) -> None:
    frame, face = drawn_face()
    large = cv2.resize(frame, (1024, 1024), interpolation=cv2.INTER_CUBIC)
    four = Face(face.box_xyxy * 4 + 1.5, 1.0, face.landmarks * 4 + 1.5)
    found = mesh.locate(np.asarray(large), [four])[0]
    expected = mesh.locate(frame, [face])[0] * 4 + 1.5
    assert np.linalg.norm(found - expected, axis=1).mean() < 6


def test_a_batch_is_its_faces_one_by_one(mesh: FaceMesh) -> None:
    frame, face = drawn_face()
    moved = Face(face.box_xyxy + 5, 1.0, face.landmarks + 5)
    together = mesh.locate(frame, [face, moved])
    alone = [mesh.locate(frame, [one])[0] for one in (face, moved)]
    np.testing.assert_allclose(together, alone, atol=1e-2)
    assert mesh.locate(frame, []).shape == (0, N_POINTS, 2)


def test_no_face_has_no_points(mesh: FaceMesh) -> None:
    _, face = drawn_face()
    noise = np.random.default_rng(0).integers(0, 255, (256, 256, 3)).astype(np.uint8)
    assert np.isnan(mesh.locate(noise, [face])).all()
