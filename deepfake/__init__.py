r"""Find manipulated faces in photos and videos.

    >>> import deepfake                      # doctest: +SKIP
    >>> deepfake.predict("photo.jpg")        # doctest: +SKIP

    media -> frames -> faces -> crops + manifest -> unit embeddings -> triplet loss
                                                         \-> linear SVM -> p_fake

``deepfake.faces`` and ``deepfake.dataset`` make crops, ``deepfake.learning`` trains on them,
``deepfake.inference`` scores new media by the same path. Label 1 = fake, everywhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deepfake.inference.once import predict
    from deepfake.inference.predictor import Predictor
    from deepfake.result import Result

__version__ = "0.1.0"
__all__ = ["Predictor", "Result", "__version__", "predict"]


def __getattr__(name: str) -> Any:
    # Importing the package must not import torch: ``deepfake --help`` would take seconds.
    if name == "Predictor":
        from deepfake.inference.predictor import Predictor

        return Predictor
    if name == "predict":
        from deepfake.inference.once import predict

        return predict
    if name == "Result":
        from deepfake.result import Result

        return Result
    raise AttributeError(f"module 'deepfake' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
