r"""Find manipulated faces in photos and videos.

    media -> frames -> faces -> crops + manifest -> unit embeddings -> triplet loss
                                                         \-> linear SVM -> p_fake

``deepfake.faces`` and ``deepfake.dataset`` make crops, ``deepfake.learning`` trains on them,
``deepfake.inference`` scores new media by the same path. Label 1 = fake, everywhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deepfake.inference.predictor import Predictor

__version__ = "0.1.0"
__all__ = ["Predictor", "__version__"]


def __getattr__(name: str) -> Any:
    # Importing the package must not import torch: ``deepfake --help`` would take seconds.
    if name == "Predictor":
        from deepfake.inference.predictor import Predictor

        return Predictor
    raise AttributeError(f"module 'deepfake' has no attribute {name!r}")
