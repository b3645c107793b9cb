"""The recipe: how a file becomes crops, and how the scores of its faces become one score.

``crop`` writes it beside the crops, training copies it into the checkpoint, everything that scores
reads it from there: nobody can predict with other crops than were trained on.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from math import isfinite
from types import UnionType
from typing import Any, Literal, Self, get_args, get_origin, get_type_hints

from deepfake.errors import UsageError

MAX_DETECT_EVERY = 30
"""Frames between two searches are held in memory."""
_MOST = 2**31  # no setting counts further


class _Settings:
    """What frozen settings share: their way through JSON and a weights-only checkpoint."""

    __slots__ = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain types only."""
        values = asdict(self)  # type: ignore[call-overload]
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Rebuild from ``to_dict``.

        Raises:
            UsageError: If a setting is unknown, missing, of the wrong kind or out of range.
        """
        kinds = {field.name: field.type for field in fields(cls)}  # type: ignore[arg-type]
        what = cls.__name__
        if not isinstance(values, dict) or set(values) != set(kinds):
            given = set(values) if isinstance(values, dict) else set()
            raise UsageError(
                f"{what} settings do not fit this version: unknown "
                f"{sorted(map(str, given - set(kinds)))}, missing {sorted(set(kinds) - given)}"
            )
        values = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
        for name, hint in get_type_hints(cls).items():
            if not _is_of_kind(values[name], hint):
                raise UsageError(
                    f"a {what} setting has a value of the wrong kind: {name}="
                    f"{_shorten(values[name])}; expected {kinds[name]}"
                )
        return cls(**values)


def _is_of_kind(value: object, kind: Any) -> bool:
    """Whether a value that somebody else wrote is what a type says, and if a number, a finite one.

    A bool is no number, a fraction no whole number.
    """
    origin, parts = get_origin(kind), get_args(kind)
    if origin is UnionType:
        return any(_is_of_kind(value, part) for part in parts)
    if origin is Literal:
        return isinstance(value, str)  # which words there are, the settings say themselves
    if origin is tuple:
        same_length = isinstance(value, tuple) and len(value) == len(parts)
        return same_length and all(map(_is_of_kind, value, parts))  # type: ignore[call-overload]
    if kind is float and type(value) is float:
        return isfinite(value)
    if kind in (int, float) and type(value) is int:
        return abs(value) < _MOST
    return type(value) is kind


def _shorten(value: object) -> str:
    """A value of unknown size, for an error."""
    try:
        return f"{value!r:.80}"
    except (ValueError, RecursionError) as error:  # a number of many digits, a list of lists
        return f"({error})"


@dataclass(frozen=True, slots=True)
class Sampling(_Settings):
    """Which frames of a clip are used; a photo is always its one frame.

    Exactly one of ``frames``, ``fps`` and ``every`` is set.

    Args:
        frames: This many, evenly spread over the whole length.
        fps: This many per second of presentation time.
        every: Each n-th frame, the first included.
        mode: ``exact`` takes the very frames asked for; ``keyframes`` the nearest keyframe of
            each, which is several times faster and lands on other frames.
        max_frames: Never more than this many from one clip.
        detect_every: Search for faces in each n-th of these frames only, and give the frames
            between the boxes between. Where the two are more than a second apart, or a face has
            no partner in the other, the frames between are searched all the same.
    """

    frames: int | None = 16
    fps: float | None = None
    every: int | None = None
    mode: Literal["exact", "keyframes"] = "exact"
    max_frames: int = 1000
    detect_every: int = 1

    def __post_init__(self) -> None:
        chosen = [value for value in (self.frames, self.fps, self.every) if value is not None]
        if len(chosen) != 1 or not 0 < chosen[0] < float("inf"):  # false for NaN, too
            raise UsageError(
                f"sampling needs exactly one of frames={self.frames}, fps={self.fps}, "
                f"every={self.every}, above 0"
            )
        if self.mode not in ("exact", "keyframes"):
            raise UsageError(f"sampling mode {self.mode!r}; expected 'exact' or 'keyframes'")
        if self.max_frames < 1:
            raise UsageError(f"max_frames={self.max_frames}; expected 1 or more")
        if not 1 <= self.detect_every <= MAX_DETECT_EVERY:
            raise UsageError(
                f"detect_every={self.detect_every}; expected 1 (every frame) to {MAX_DETECT_EVERY}"
            )


def list_differences(settings: _Settings, others: _Settings) -> list[str]:
    """What differs between two settings of a kind, as text: name, value, the other one's value.

    Example:
        >>> list_differences(Sampling(frames=8), Sampling())
        ['frames 8 instead of 16']
    """
    ours, theirs = settings.to_dict(), others.to_dict()
    return [
        f"{key} {ours[key]} instead of {theirs[key]}" for key in ours if ours[key] != theirs[key]
    ]


Policy = Literal["mean", "median", "top", "confident", "max"]
POLICIES: tuple[str, ...] = get_args(Policy)
"""How the frames of a person make their score, by name."""
FacesPerFrame = Literal["all", "largest"]


@dataclass(frozen=True, slots=True)
class Aggregation(_Settings):
    """How the faces of a file make its score: by person, and the most suspicious one decides.

    Training writes it into the checkpoint; prediction uses it from there.

    Args:
        policy: What makes one score of the frames of a person: ``mean`` or ``median``, ``top``:
            mean of the highest, ``confident``: mean of the sure ones where they are many, ``max``:
            the highest.
        top_share: Share of the frames that ``top`` takes, of one frame at least.
        sure_fake: A frame above it is sure to be fake, for ``confident``.
        sure_real: A frame below it is sure to be real.
        enough_share: Sure fakes count alone if they are more than this share of the frames,
        enough_frames: and more than this many.
        nearly_all: Sure reals count alone if they are more than this share.
        faces_per_frame: ``all`` faces are scored and linked to people; ``largest`` scores the
            largest of each frame, and takes them for one person.
        person_share: Of the frames with a usable face, a person who counts is in this share;
            where nobody is, all count.
        min_face_px: A face whose shorter side is below it is too small to decide anything.
        min_confidence: So is one that the detector is less sure of.
    """

    policy: Policy = "mean"
    top_share: float = 0.25
    sure_fake: float = 0.8
    sure_real: float = 0.2
    enough_share: float = 0.4
    enough_frames: int = 11
    nearly_all: float = 0.9
    faces_per_frame: FacesPerFrame = "all"
    person_share: float = 0.25
    min_face_px: int = 48
    min_confidence: float = 0.9

    def __post_init__(self) -> None:
        if self.policy not in POLICIES:
            raise UsageError(f"no aggregation {self.policy!r}; there are {', '.join(POLICIES)}")
        for field in fields(self):
            value = getattr(self, field.name)
            is_share = field.name.endswith(("_share", "_fake", "_real", "_all", "_confidence"))
            if is_share and not 0 <= value <= 1:  # false for NaN, too
                raise UsageError(f"aggregation {field.name}={value!r}; expected 0 to 1")
            if field.name.endswith(("_frames", "_px")) and value < 0:
                raise UsageError(f"aggregation {field.name}={value!r}; expected 0 or more")
        if self.faces_per_frame not in get_args(FacesPerFrame):
            raise UsageError(
                f"aggregation faces_per_frame={self.faces_per_frame!r}; expected all or largest"
            )


Geometry = Literal["entry", "square", "aligned"]


@dataclass(frozen=True, slots=True)
class CropSpec(_Settings):
    """How a picture becomes face crops: the one recipe that training and prediction share.

    ``crop.py`` writes it beside the crops, training copies it into the checkpoint, ``predict.py``
    reads it from there; nobody can predict on other crops than were trained on.

    Args:
        preset: Name of the recipe that this one started from.
        size: Side of the crop in pixels.
        geometry: ``entry`` pads the box by ``margins[0]`` of its *height* left and right and by
            ``margins[1]`` of its *width* above and below, cuts at the border of the picture and
            squashes to a square; ``square`` keeps the aspect: a square of the longer side plus
            ``margins`` of it on each side; ``aligned`` turns, shifts and scales the five points
            near those of a template, with ``margins`` of the template's side on each side.
        margins: The two ratios of ``geometry``; equal for ``square`` and ``aligned``.
        interpolation: ``linear`` (OpenCV's, as the entry used), or ``auto``: area averaging to
            shrink, bicubic to enlarge.
        min_face: Smallest face that is searched for, in pixels.
        min_face_ratio: The same, as a share of the picture's shorter side; the larger of both
            counts, which bounds the cost of huge pictures.
        factor: Step of the detector's image pyramid.
        thresholds: Detector thresholds of PNet, RNet and ONet.
        faces: ``largest`` face of a frame, or ``all``.
        search: ``main`` looks from coarse to fine and stops at a certain largest face, many times
            faster; ``exact`` looks at every scale. With ``faces="all"`` the others are looked for
            at every scale, either way. ``none`` takes every picture for one face as it is.
        rotate_retry: Search the frame turned by 180 degrees where none is found as it stands, as
            the contest entry did. Of faces that are upside down many are found as they stand, and
            cut so; in a video, one person may then count as several.
        jpeg_quality: Crops pass once through JPEG of this quality (4:2:0), in training and in
            prediction; ``None`` stores lossless PNG.
    """

    preset: str = "square"
    size: int = 380
    geometry: Geometry = "square"
    margins: tuple[float, float] = (0.2, 0.2)
    interpolation: Literal["linear", "auto"] = "auto"
    min_face: int = 40
    min_face_ratio: float = 0.02
    factor: float = 0.709
    thresholds: tuple[float, float, float] = (0.6, 0.7, 0.7)
    faces: Literal["largest", "all"] = "largest"
    search: Literal["main", "exact", "none"] = "main"
    rotate_retry: bool = True
    jpeg_quality: int | None = 95

    def __post_init__(self) -> None:
        def check(ok: bool, name: str, expected: str) -> None:
            if not ok:
                raise UsageError(
                    f"crop setting {name}={getattr(self, name)!r}; expected {expected}"
                )

        check(isinstance(self.size, int) and 16 <= self.size <= 2048, "size", "16 to 2048 pixels")
        check(self.geometry in get_args(Geometry), "geometry", "'entry', 'square' or 'aligned'")
        check(
            len(self.margins) == 2 and all(0 <= m <= 2 for m in self.margins),
            "margins",
            "two ratios from 0 to 2",
        )
        check(
            self.geometry == "entry" or self.margins[0] == self.margins[1],
            "margins",
            f"two equal ratios for geometry {self.geometry!r}",
        )
        check(self.interpolation in ("linear", "auto"), "interpolation", "'linear' or 'auto'")
        check(self.min_face >= 12, "min_face", "12 pixels or more (the detector's window)")
        check(0 <= self.min_face_ratio < 1, "min_face_ratio", "a share from 0 to 1")
        check(0.1 <= self.factor <= 0.95, "factor", "0.1 to 0.95")
        check(
            len(self.thresholds) == 3 and all(0 < t < 1 for t in self.thresholds),
            "thresholds",
            "three numbers between 0 and 1",
        )
        check(self.faces in ("largest", "all"), "faces", "'largest' or 'all'")
        check(self.search in ("main", "exact", "none"), "search", "'main', 'exact' or 'none'")
        check(
            self.search != "none" or self.geometry != "aligned",
            "geometry",
            "another one where search is 'none': nothing tells where eyes and mouth are",
        )
        check(
            self.jpeg_quality is None or 1 <= self.jpeg_quality <= 100,
            "jpeg_quality",
            "1 to 100, or none for PNG",
        )

    def for_scoring(self, faces_per_frame: FacesPerFrame) -> CropSpec:
        """The same recipe for these faces of a frame: the crop of the first is the same bytes."""
        return replace(self, faces=faces_per_frame)

    @property
    def suffix(self) -> str:
        """File suffix of a stored crop."""
        return ".png" if self.jpeg_quality is None else ".jpg"

    @classmethod
    def from_preset(cls, name: str, **changes: Any) -> CropSpec:
        """The named recipe, with single settings changed.

        Raises:
            UsageError: If there is no such preset, or a setting is out of range.
        """
        if name not in PRESETS:
            raise UsageError(f"no crop preset {name!r}; there are {', '.join(PRESETS)}")
        return replace(PRESETS[name], **changes)


# The entry cut its training faces with stricter detector settings than its test faces, so the
# network only ever trained on large, easy ones. `dacon` uses its prediction settings for both
# jobs; `dacon-train` has the other set, again for both.
_DACON = CropSpec(
    preset="dacon",
    geometry="entry",
    margins=(0.135, 0.10),
    interpolation="linear",
    min_face=100,
    min_face_ratio=0.0,
    factor=0.7,
    thresholds=(0.6, 0.7, 0.8),
    search="exact",
)
PRESETS: dict[str, CropSpec] = {
    "square": CropSpec(),
    # With the margin of DeepfakeBench and of what is published on it: a square 1.3 times as wide.
    "aligned": CropSpec(preset="aligned", geometry="aligned", margins=(0.15, 0.15)),
    # Pictures that are face crops already, with whatever margin their maker left.
    "whole": CropSpec(
        preset="whole",
        geometry="entry",
        margins=(0.0, 0.0),
        min_face=20,
        min_face_ratio=0.0,
        faces="all",
        search="none",
        rotate_retry=False,
    ),
    "dacon": _DACON,
    "dacon-train": replace(
        _DACON, preset="dacon-train", min_face=160, factor=0.3, thresholds=(0.98, 0.98, 0.98)
    ),
}
"""Crop recipes by name."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything between a file and its score that is no network and no head.

    Args:
        crop: How faces are found and cut.
        sampling: Which frames of a clip are used.
        aggregation: How the scores of the faces of a file become that of the file.
    """

    crop: CropSpec = CropSpec()
    sampling: Sampling = Sampling()
    aggregation: Aggregation = Aggregation()

    def to_dict(self) -> dict[str, Any]:
        """Plain types only, so that it survives JSON and a weights-only checkpoint."""
        return {part.name: getattr(self, part.name).to_dict() for part in fields(self)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Recipe:
        """Rebuild from ``to_dict``.

        Raises:
            UsageError: If a part is missing, or a setting does not fit.
        """
        if not isinstance(values, dict) or set(values) != {part.name for part in fields(cls)}:
            raise UsageError("a recipe has the parts crop, sampling and aggregation")
        return cls(
            CropSpec.from_dict(values["crop"]),
            Sampling.from_dict(values["sampling"]),
            Aggregation.from_dict(values["aggregation"]),
        )
