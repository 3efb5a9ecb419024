"""Find boxes on one radiograph, from Python.

python examples/predict_one_file.py outputs/demo/06_detector/checkpoints/fold0/best.ckpt FILE.dicom
"""

from __future__ import annotations

import sys

from cxr.detector.prediction.detector import load_detector
from cxr.detector.prediction.files import predict_files


def main(checkpoint: str, file: str) -> int:
    """Print the five boxes with the highest scores; returns an exit status."""
    detector = load_detector(checkpoint, device="cpu")
    found, failed = predict_files([detector], [file], decoders=1)
    for failure in failed.itertuples():
        print(f"not read: {failure.file}: {failure.message}", file=sys.stderr)
    for box in found.nlargest(5, "score").itertuples():
        name = detector.spec.classes.name(box.class_id)
        print(f"{box.score:.3f}  {name}  {box.x_min:.0f} {box.y_min:.0f} {box.x_max:.0f} {box.y_max:.0f} px")
    return 1 if len(failed) else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
