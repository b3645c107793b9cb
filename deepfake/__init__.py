r"""Find manipulated faces in photos and videos.

    media -> frames -> faces -> crops + manifest -> unit embeddings -> triplet loss
                                                         \-> linear SVM -> p_fake

``deepfake.faces`` and ``deepfake.dataset`` make crops, ``deepfake.learning`` trains on them,
``deepfake.inference`` scores new media by the same path. Label 1 = fake, everywhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deepfake.inference.predictor import AnyPaths, Predictor
    from deepfake.inference.results import Results

__version__ = "0.1.0"
__all__ = ["Predictor", "__version__", "predict"]


def predict(paths: AnyPaths, checkpoint: Any = None, **settings: Any) -> Results:
    """Score a photo or video, or several, with the model in the box or another one.

    Args:
        paths: A path, or several.
        checkpoint: As of ``Predictor.from_checkpoint``; ``None`` is the model in the box.
        **settings: Other arguments of ``Predictor.from_checkpoint``.

    Returns:
        One ``Result`` per path, in order, as they come; ``to_frame()`` makes a table of them.

    Raises:
        UsageError: As of ``Predictor.from_checkpoint``.
    """
    from deepfake.inference.predictor import Predictor

    return Predictor.from_checkpoint(checkpoint, **settings).predict(paths)


def __getattr__(name: str) -> Any:
    # Importing the package must not import torch: ``deepfake --help`` would take seconds.
    if name == "Predictor":
        from deepfake.inference.predictor import Predictor

        return Predictor
    raise AttributeError(f"module 'deepfake' has no attribute {name!r}")
