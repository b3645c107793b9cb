"""Train a detector: ``python train.py --data CROPS``."""

from deepfake.cli import train

if __name__ == "__main__":
    raise SystemExit(train())
