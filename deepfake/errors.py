"""The few exceptions of the project; each is also a standard-library error.

``UsageError`` is the caller's to mend (exit code 2), ``JobError`` happened while running (exit
code 1), ``MediaError`` is one bad input, which a batch job records as a status and survives.
"""


class DeepfakeError(Exception):
    """Base of all errors that this package raises on purpose."""


class UsageError(DeepfakeError, ValueError):
    """An option, a configuration, a list file, a manifest or a data set is not as it must be."""


class CheckpointError(UsageError):
    """A checkpoint file is missing, damaged, foreign, or does not fit what it is used with."""


class JobError(DeepfakeError, RuntimeError):
    """A job cannot go on: no space left, a NaN loss, another run on the same folder."""


class MediaError(DeepfakeError, OSError):
    """One photo or video cannot be decoded.

    Args:
        path: The file as the user named it.
        code: Stable word for the kind of failure, e.g. ``truncated`` (see ``docs/reasons.md``).
        detail: What was seen, for a person.
    """

    def __init__(self, path: object, code: str, detail: str) -> None:
        super().__init__(f"{path}: {code}: {detail}")
        self.path = path
        self.code = code
        self.detail = detail

    def __reduce__(self) -> tuple[type["MediaError"], tuple[object, str, str]]:
        # OSError pickles its formatted text; worker processes must send the three parts.
        return (MediaError, (self.path, self.code, self.detail))

    @property
    def reason(self) -> str:
        """``code: detail``, as written into status rows."""
        return f"{self.code}: {self.detail}"


def without_controls(text: str) -> str:
    """The same text, of which nothing steers a terminal: messages may quote bytes of a file."""
    return "".join(c if c.isprintable() or c == "\n" else " " for c in text)


def one_line(text: str, limit: int = 160) -> str:
    """Make a library's message printable and short, as the detail of an error."""
    clean = " ".join(without_controls(text).split())
    return clean if len(clean) <= limit else clean[: limit - 3] + "..."
