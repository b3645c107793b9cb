"""Dense landmarks of detected faces: the 468 points of MediaPipe's face mesh, in PyTorch.

The network and its weights are Google's (``deepfake/models/NOTICE``); written anew here from the
published graph, so that it needs no other runtime. Knows nothing of crops and folders.

References:
    Kartynnik et al., "Real-time Facial Surface Geometry from Monocular Video on Mobile GPUs",
    CVPR workshops 2019.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib.resources import as_file, files

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import max_pool2d, pad

from deepfake.faces.geometry import cut_turned, to_frame
from deepfake.records import Face, TurnedWindow

N_POINTS = 468
INPUT_SIZE = 192
"""Side of the network's input in pixels."""
_WEIGHTS = "face_mesh.safetensors"
# A quarter of the face's width on each side, as the network was trained.
_MARGIN = 0.25


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
        windows = [_level_eyes(face) for face in faces]
        inputs = [cut_turned(image, window, INPUT_SIZE, "auto") for window in windows]
        # (N, 192, 192, 3) uint8 -> (N, 3, 192, 192) in [0, 1]
        batch = torch.from_numpy(np.stack(inputs)).to(self.device).permute(0, 3, 1, 2) / 255
        with torch.inference_mode():
            points, log_odds = self.network(batch)
        found = zip(points[..., :2].cpu().numpy(), windows, strict=True)
        located = np.stack([to_frame(mesh, window, INPUT_SIZE) for mesh, window in found])
        located[log_odds.cpu().numpy() < 0] = np.nan
        return located


def _level_eyes(face: Face) -> TurnedWindow:
    """A square around a face, turned so that its eyes are level."""
    x0, y0, x1, y1 = (float(value) for value in face.box_xyxy)
    if not len(face.landmarks):  # a picture that is a face as it is, upright and with a margin
        return TurnedWindow(x0, y0, x1, y1, 0.0)
    across, down = (face.landmarks[1] - face.landmarks[0]).tolist()
    # A box that is narrow for its height is a face in profile.
    half = max((1 + 2 * _MARGIN) * (x1 - x0), y1 - y0, 1.0) / 2
    x, y = (x0 + x1) / 2, (y0 + y1) / 2
    angle = math.degrees(math.atan2(down, across))
    return TurnedWindow(x - half, y - half, x + half, y + half, angle)
