"""Dense landmarks of detected faces: the 468 points of MediaPipe's face mesh, in PyTorch.

The network and its weights are Google's (``deepfake/models/NOTICE``); written anew here from the
published graph, so that it needs no other runtime. Knows nothing of crops and folders.

References:
    Kartynnik et al., "Real-time Facial Surface Geometry from Monocular Video on Mobile GPUs",
    CVPR workshops 2019.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import as_file, files

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import max_pool2d, pad

from deepfake.faces.geometry import cut_window
from deepfake.records import Face

N_POINTS = 468
INPUT_SIZE = 192
"""Side of the network's input in pixels."""
_WEIGHTS = "face_mesh.safetensors"
# A quarter of the face's width on each side, as the network was trained.
_MARGIN = 0.25
# What is turned upright must not lose its corners.
_TURNED_SIZE = 272  # at least INPUT_SIZE * sqrt(2)


class _Block(nn.Module):
    """Depthwise and pointwise convolution beside a shortcut; ``stride`` 2 halves the sides."""

    def __init__(self, channels: int, out_channels: int = 0, stride: int = 1) -> None:
        super().__init__()
        self.out_channels = out_channels or channels
        self.stride = stride
        self.depthwise = nn.Conv2d(channels, channels, 3, stride, groups=channels)
        self.pointwise = nn.Conv2d(channels, self.out_channels, 1)
        self.activation = nn.PReLU(self.out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, out_channels, H / stride, W / stride)."""
        shortcut = x
        if self.stride == 2:
            shortcut = max_pool2d(x, 2)
            # More channels than came in: the new ones have no shortcut.
            shortcut = pad(shortcut, (0, 0, 0, 0, 0, self.out_channels - x.shape[1]))
        change = self.pointwise(self.depthwise(_pad_same(x, self.stride)))
        result: Tensor = self.activation(shortcut + change)
        return result


def _pad_same(x: Tensor, stride: int) -> Tensor:
    """TensorFlow's padding for kernels of 3 on even sides: halving leaves the top left alone."""
    return pad(x, (1, 1, 1, 1) if stride == 1 else (0, 1, 0, 1))


def _make_head(channels: int, n_outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, 32, 1), nn.PReLU(32), _Block(32), nn.Conv2d(32, n_outputs, 3)
    )


class FaceMeshNetwork(nn.Module):
    """The network alone: an upright face to its points."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, 2)
        self.stem_activation = nn.PReLU(16)
        widths = (16, 32, 64, 128, 128)
        trunk: list[nn.Module] = []
        for before, width in zip((16, *widths), widths, strict=False):
            # The first width has the stem's size already.
            trunk += [_Block(before, width, stride=2)] if trunk else []
            trunk += [_Block(width), _Block(width)]
        self.trunk = nn.Sequential(*trunk)
        self.points = nn.Sequential(
            _Block(128, stride=2), _Block(128), _Block(128), _make_head(128, 3 * N_POINTS)
        )
        self.presence = nn.Sequential(_Block(128, stride=2), _make_head(128, 1))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Find the points.

        Args:
            images: ``(N, 3, 192, 192)`` RGB in [0, 1]: a face, upright, with a quarter of its
                width around it.

        Returns:
            Points, ``(N, 468, 3)``: x and y in pixels of the input, and a depth on their scale;
            and the log-odds that a face is there, ``(N,)``.
        """
        features = self.stem_activation(self.stem(_pad_same(images, 2)))  # (N, 16, 96, 96)
        features = self.trunk(features)  # (N, 128, 6, 6)
        points = self.points(features).reshape(-1, N_POINTS, 3)
        return points, self.presence(features).reshape(-1)


class FaceMesh:
    """Dense landmarks of the faces of a frame.

    Args:
        device: Where the network runs.
    """

    def __init__(self, device: str = "cpu") -> None:
        self.device = torch.device(device)
        network = FaceMeshNetwork()
        with as_file(files("deepfake.models") / _WEIGHTS) as path:
            network.load_state_dict(load_file(path))
        network = network.eval().requires_grad_(requires_grad=False)
        # Twice as fast on a CPU as channels first.
        self.network = network.to(self.device).to(memory_format=torch.channels_last)

    def locate(self, image: NDArray[np.uint8], faces: Sequence[Face]) -> NDArray[np.float32]:
        """Find the points of every face of a frame, in one batch.

        Args:
            image: ``(H, W, 3)`` uint8 RGB.
            faces: As they were detected in it.

        Returns:
            ``(N, 468, 2)`` in pixels of the frame; NaN where the network sees no face.
        """
        if not faces:
            return np.empty((0, N_POINTS, 2), np.float32)
        inputs, to_frame = zip(*(_cut_upright(image, face) for face in faces), strict=True)
        # (N, 192, 192, 3) uint8 -> (N, 3, 192, 192) in [0, 1]
        batch = torch.from_numpy(np.stack(inputs)).to(self.device).permute(0, 3, 1, 2) / 255
        with torch.inference_mode():
            points, log_odds = self.network(batch)
        found = points[..., :2].cpu().numpy()
        maps = np.stack(to_frame)  # (N, 2, 3)
        located = found @ maps[:, :, :2].transpose(0, 2, 1) + maps[:, None, :, 2]
        located[log_odds.cpu().numpy() < 0] = np.nan
        return np.asarray(located, np.float32)


def _cut_upright(
    image: NDArray[np.uint8], face: Face
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """A face for the network, its eyes level, and the affine map from there to the frame."""
    x0, y0, x1, y1 = (float(value) for value in face.box_xyxy)
    left_eye, right_eye = face.landmarks[:2].astype(np.float64)
    across, down = right_eye - left_eye
    angle = np.arctan2(down, across)
    # A box that is narrow for its height is a face in profile.
    side = max((1 + 2 * _MARGIN) * (x1 - x0), y1 - y0)
    centre = np.array([(x0 + x1) / 2, (y0 + y1) / 2])
    # First a larger square without turning, which averages what must be shrunk.
    half = side * _TURNED_SIZE / INPUT_SIZE / 2
    left, top = (round(value) for value in centre - half)
    extent = max(round(2 * half), 1)
    window = (left, top, left + extent, top + extent)
    square = cut_window(image, window, _TURNED_SIZE, "auto")
    # Frame to square (see ``to_crop``), square to the turned input; both name pixel centres.
    scale = _TURNED_SIZE / extent
    shrink = np.array(
        [[scale, 0, (0.5 - left) * scale - 0.5], [0, scale, (0.5 - top) * scale - 0.5], [0, 0, 1]]
    )
    turn = np.eye(3)
    cosine, sine = np.cos(angle), np.sin(angle)
    turn[:2, :2] = [[cosine, sine], [-sine, cosine]]
    turn[:2, 2] = (INPUT_SIZE - 1) / 2 - turn[:2, :2] @ (shrink @ [*centre, 1])[:2]
    upright = cv2.warpAffine(
        square, turn[:2], (INPUT_SIZE, INPUT_SIZE), borderMode=cv2.BORDER_REPLICATE
    )
    return np.asarray(upright, np.uint8), np.linalg.inv(turn @ shrink)[:2]
