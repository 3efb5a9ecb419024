"""Find abnormalities without PyTorch: `python onnx_without_torch.py fold0.onnx image.png`."""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image

net = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
names = json.loads(net.get_modelmeta().custom_metadata_map["class_names"])
image = np.asarray(Image.open(sys.argv[2]).convert("L"))  # uint8 (rows, columns), white is dense tissue
boxes, scores, class_ids = net.run(None, {"image": image})
for box, score, class_id in zip(boxes, scores, class_ids, strict=True):
    if score >= 0.05:
        print(f"{names[class_id]:20} {score:.3f} {box.round(1).tolist()}")
