"""``python -m deepfake``: the command, where the folder of pip's scripts is not on the path."""

from deepfake.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
