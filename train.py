"""Train a detector: ``python train.py --data.root CROPS``."""

from deepfake.cli import train

if __name__ == "__main__":
    raise SystemExit(train())
