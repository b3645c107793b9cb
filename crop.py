"""Cut faces out of photos: ``python crop.py PHOTOS --output CROPS``."""

from deepfake.cli import crop

if __name__ == "__main__":
    raise SystemExit(crop())
