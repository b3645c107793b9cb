"""Score photos: ``python predict.py PHOTOS --checkpoint model.ckpt --output scores.csv``."""

from deepfake.cli import predict

if __name__ == "__main__":
    raise SystemExit(predict())
