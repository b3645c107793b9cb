"""Open any photo, animation or video by what it holds; what the file is called does not count."""

from __future__ import annotations

from pathlib import Path

from deepfake.media.clips import Clip
from deepfake.media.containers import HEAD_BYTES, is_video
from deepfake.media.discovery import is_called_video
from deepfake.media.files import is_image, open_regular_file
from deepfake.media.images import open_image
from deepfake.media.video import open_video
from deepfake.records import MAX_PIXELS, Sampling


def open_media(path: Path, name: str, sampling: Sampling, max_pixels: int = MAX_PIXELS) -> Clip:
    """Open one file as a clip: a photo has one frame, the rest those that sampling chooses.

    Args:
        path: The file to open. Links are followed: whoever made the list decided on that.
        name: The file as the user knows it, for errors.
        sampling: Which frames of an animation or a video.
        max_pixels: Largest width x height of a frame.

    Returns:
        At least one frame, decoded while it is asked for.

    Raises:
        MediaError: If there is nothing to be had, with the codes of ``read_image`` and
            ``open_video``. The clip raises it, too: some damage shows only at the first frame.
    """
    with open_regular_file(path, name) as file:
        head = file.read(HEAD_BYTES)
    # Where the content is neither, the suffix chooses the words of the refusal.
    if (is_called_video(name) or is_video(head)) and not is_image(head):
        return open_video(path, name, sampling, max_pixels)
    return open_image(path, name, sampling, max_pixels)
