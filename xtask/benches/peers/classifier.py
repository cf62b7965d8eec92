"""A classifier as people write it in Python: Pillow, NumPy, ONNX Runtime. What the peers of `cargo xtask bench module`
share; the model package in MODEL_DIR says how a picture becomes a tensor."""

import io
import json
import os
import pathlib

import numpy
import onnxruntime
from PIL import Image


class Classifier:
    def __init__(self):
        folder = pathlib.Path(os.environ["MODEL_DIR"])
        package = json.loads((folder / "package.json").read_text())
        image = package["input"]["image"]
        assert image["fit"] == "stretch" and image["resize"] == "bilinear" and image["layout"] == "nchw"
        self.name = package["name"]
        self.size = (image["width"], image["height"])
        self.mode = "L" if image["colour"] == "grey" else "RGB"
        self.scale = numpy.float32(image["scale"])
        self.mean = numpy.array(image.get("mean", [0.0]), numpy.float32)[:, None, None]
        self.std = numpy.array(image.get("std", [1.0]), numpy.float32)[:, None, None]
        self.labels = package["output"]["labels"]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(os.environ["THREADS"])
        options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(
            str(folder / package["model"]["path"]), options, providers=["CPUExecutionProvider"]
        )
        self.input = self.session.get_inputs()[0].name

    def prepare(self, data: bytes) -> numpy.ndarray:
        picture = Image.open(io.BytesIO(data)).convert(self.mode)
        if picture.size != self.size:
            picture = picture.resize(self.size, Image.Resampling.BILINEAR)
        pixels = numpy.asarray(picture, numpy.float32)
        pixels = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
        return ((pixels * self.scale - self.mean) / self.std)[None]

    def run(self, tensor: numpy.ndarray) -> numpy.ndarray:
        return self.session.run(None, {self.input: tensor})[0]

    def predict(self, data: bytes) -> dict:
        logits = self.run(self.prepare(data))[0]
        weights = numpy.exp(logits - logits.max())
        probabilities = weights / weights.sum()
        best = int(probabilities.argmax())
        return {"label": self.labels[best], "confidence": float(probabilities[best])}
