"""Times Pillow on one picture: `preprocess.py PICTURE WIDTH HEIGHT RUNS OUT` prints the seconds of each run and writes
the tensor, float32 of [3, HEIGHT, WIDTH], to OUT. Given `make` instead of a picture it writes a 1920×1080 JPEG to OUT."""

import io
import pathlib
import sys
import time

import numpy
from PIL import Image


def make(out):
    y, x = numpy.mgrid[0:1080, 0:1920]
    noise = numpy.random.default_rng(7).integers(0, 24, (1080, 1920, 3))
    waves = numpy.stack([x // 8 + y // 16, x * y // 9000, 255 - y // 5], axis=2)
    Image.fromarray(((waves + noise) % 256).astype(numpy.uint8)).save(out, quality=90)


def prepare(data, size):
    picture = Image.open(io.BytesIO(data)).convert("RGB").resize(size, Image.Resampling.BILINEAR)
    pixels = numpy.asarray(picture, numpy.float32).transpose(2, 0, 1) * numpy.float32(0.003921569)
    return numpy.ascontiguousarray(pixels)


if sys.argv[1] == "make":
    make(sys.argv[2])
else:
    data = pathlib.Path(sys.argv[1]).read_bytes()
    size = (int(sys.argv[2]), int(sys.argv[3]))
    for _ in range(int(sys.argv[4])):
        start = time.perf_counter()
        tensor = prepare(data, size)
        print(time.perf_counter() - start)
    pathlib.Path(sys.argv[5]).write_bytes(tensor.tobytes())
