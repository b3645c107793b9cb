"""What can be said of a file without looking at its pixels: container, tags, content credentials.

All of it is read from the file alone, in the killable workers that hostile files are read in. It
stands beside a score and changes none. Knows no page.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import BinaryIO

from av.container import InputContainer
from av.stream import Stream
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream
from PIL import Image

from deepfake.errors import MediaError, one_line
from deepfake.jobs.folder import hash_file
from deepfake.jobs.workers import Failure, read_in_workers
from deepfake.media.animation import list_frames
from deepfake.media.containers import HEAD_BYTES, find_container
from deepfake.media.credentials import (
    Credentials,
    CredentialState,
    has_credentials,
    read_credentials,
)
from deepfake.media.files import check_size, is_image, open_regular_file
from deepfake.media.packets import open_container
from deepfake.media.pillow import DECODER_ERRORS, hear_warnings, open_with_pillow, to_media_error
from deepfake.media.provenance import (
    PROVENANCE_ADDRESS,
    Tag,
    list_image_tags,
    list_video_tags,
    make_tags,
)
from deepfake.records import Source, Workers
from deepfake.stores.objects import fetched

_VIDEO_TYPES = {"mov": "video/mp4", "avi": "video/avi"}
_MOST_STREAMS = 16


@dataclass(frozen=True, slots=True)
class FileFacts:
    """What is known of a file besides its score.

    Args:
        sha256: Of its content; empty if it cannot be read.
        n_bytes: Its size.
        facts: Name and value of what its container says: format, codec, size, length.
        tags: What it says of its making.
        credentials: Its content credentials, where it has any.
        problem: Why some of this is missing; empty if nothing is.
    """

    sha256: str = ""
    n_bytes: int | None = None
    facts: tuple[tuple[str, str], ...] = ()
    tags: tuple[Tag, ...] = ()
    credentials: Credentials | None = None
    problem: str = ""


def inspect_files(
    sources: Iterable[Source], workers: Workers
) -> Generator[tuple[Source, FileFacts]]:
    """Inspect files, in the order given; a hostile one is told of, never an exception.

    Args:
        sources: The files.
        workers: How many processes do it, and their time limit.

    Raises:
        JobError: If workers cannot be started.
    """
    answers = read_in_workers(sources, partial(_make_inspect, workers.max_pixels), workers)
    with closing(answers):
        for source, answer in answers:
            if isinstance(answer, Failure):
                answer = FileFacts(problem=answer.reason)
            # Here, so that a file which stops its worker has a hash all the same.
            try:
                with fetched(source) as file:
                    sha256, n_bytes = hash_file(file.path), _size(file)
            except MediaError:  # the worker has told why
                sha256, n_bytes = "", None
            yield source, replace(answer, sha256=sha256, n_bytes=n_bytes)


def _make_inspect(max_pixels: int) -> Callable[[Source], FileFacts]:
    return partial(inspect_file, max_pixels)


def inspect_file(max_pixels: int, source: Source) -> FileFacts:
    """Inspect a file in this process, which a hostile one may end; without its hash and size.

    Args:
        max_pixels: Larger photos are not opened.
        source: The file.
    """
    facts: list[tuple[str, str]] = []
    pairs: list[tuple[str, object]] = []
    problem, media_type = source.problem or "", None
    credentials: Credentials | None = None
    if problem:
        return FileFacts(problem=problem)
    try:
        with fetched(source) as found, open_regular_file(found.path, found.name) as file:
            read = _read_image if is_image(_read_head(file)) else _read_video
            try:
                media_type = read(file, source.name, max_pixels, facts, pairs)
            except MediaError as error:
                problem = error.reason
            if has_credentials(file):
                credentials = read_credentials(file, media_type)
    except DECODER_ERRORS as error:  # OSError and MediaError are among them
        text = one_line(str(error)) or type(error).__name__
        problem = error.reason if isinstance(error, MediaError) else text
    tags = make_tags(pairs)
    address = [tag.value for tag in tags if tag.name == PROVENANCE_ADDRESS]
    if credentials is None and address:
        detail = f"the file names {address[0]}, which was not asked"
        credentials = Credentials(CredentialState.ELSEWHERE, detail)
    return FileFacts(facts=tuple(facts), tags=tags, credentials=credentials, problem=problem)


def _read_image(
    file: BinaryIO,
    name: str,
    max_pixels: int,
    facts: list[tuple[str, str]],
    pairs: list[tuple[str, object]],
) -> str | None:
    """Fill in what a photo or animation says; what came before damage stays. Its media type."""
    try:
        with hear_warnings():
            file.seek(0)
            image = open_with_pillow(file, name)
            width, height = image.size
            facts += [
                ("format", str(image.format)),
                ("mode", image.mode),
                ("size", f"{width} x {height} px"),
            ]
            media_type = Image.MIME.get(image.format or "")
            if image.format == "MPO":  # a JPEG with another behind it, as cameras write previews
                media_type = Image.MIME["JPEG"]
            with suppress(MediaError, *DECODER_ERRORS):
                check_size(width, height, name, max_pixels)
                image.load()  # PNG may have its texts behind the pixels
            pairs += list_image_tags(image)
            file.seek(0)
            n_frames = len(list_frames(file))
            if n_frames > 1:
                facts.append(("frames", f"{n_frames:,}"))
    except MediaError:
        raise
    except DECODER_ERRORS as error:
        raise to_media_error(error, file, name) from error
    return media_type


def _read_video(
    file: BinaryIO,
    name: str,
    max_pixels: int,
    facts: list[tuple[str, str]],
    pairs: list[tuple[str, object]],
) -> str | None:
    """Fill in what a video says. Its media type."""
    with open_container(file, name, max_pixels) as container:
        facts += _describe_container(container)
        pairs += list_video_tags(container.metadata, "container")
        for stream in list(container.streams)[:_MOST_STREAMS]:
            facts.append((f"stream {stream.index}", _describe_stream(stream)))
            pairs += list_video_tags(stream.metadata, f"stream {stream.index}")
    return _VIDEO_TYPES.get(find_container(_read_head(file)) or "")


def _describe_container(container: InputContainer) -> Iterator[tuple[str, str]]:
    yield "format", f"{container.format.long_name} ({container.format.name})"
    if container.duration:
        yield "duration", f"{container.duration / 1e6:.2f} s"
    yield "streams", f"{len(container.streams):,}"


def _describe_stream(stream: Stream) -> str:
    """Kind, codec and, for video, size, pixels, rate and number of frames."""
    codec = stream.codec_context
    words = [stream.type, "unknown codec" if codec is None else codec.codec.canonical_name]
    if not isinstance(stream, VideoStream) or not isinstance(codec, VideoCodecContext):
        return ", ".join(words)
    words.append(f"{codec.width} x {codec.height} px")
    aspect = stream.sample_aspect_ratio
    if aspect and aspect != 1:
        words.append(f"pixels {aspect.numerator}:{aspect.denominator}")
    if codec.pix_fmt:
        words.append(codec.pix_fmt)
    if stream.average_rate:
        words.append(f"{float(stream.average_rate):.4g} frames/s")
    if stream.frames:
        words.append(f"{stream.frames:,} frames")
    return ", ".join(words)


def _read_head(file: BinaryIO) -> bytes:
    file.seek(0)
    return file.read(HEAD_BYTES)


def _size(source: Source) -> int | None:
    try:
        return source.path.stat().st_size
    except OSError:
        return None
