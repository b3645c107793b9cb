"""Known trees and tables: what an input says about its photos and videos.

``labelling`` finds the inputs and recognises their layout; ``table`` reads a CSV; ``tree`` and the
modules named after data sets read a folder into ``facts``; ``facts`` turns identities into groups
and names of originals into links.
"""

from deepfake.dataset.layouts.facts import LABEL_WORDS, SPLIT_WORDS
from deepfake.dataset.layouts.labelling import (
    LAYOUTS,
    InputOptions,
    Labelled,
    label_sources,
    list_inputs,
)

__all__ = [
    "LABEL_WORDS",
    "LAYOUTS",
    "SPLIT_WORDS",
    "InputOptions",
    "Labelled",
    "label_sources",
    "list_inputs",
]
