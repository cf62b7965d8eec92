"""Makes the golden resize vectors and the tiny test models of this folder.

Run: pip install numpy==2.4.6 pillow==12.3.0 onnx==1.23.2 && python make.py
Pillow must be 9.5 to 12.x: 13 resizes in another order (see src/preprocess/resample.rs).
"""

import hashlib
import io
import json
import pathlib

import numpy as np
import onnx
import PIL
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

HERE = pathlib.Path(__file__).parent
FILTERS = {
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
SHAPES = [
    ((1, 1), (5, 7)), ((2, 3), (8, 8)), ((8, 8), (8, 8)), ((17, 31), (8, 8)), ((31, 17), (96, 96)),
    ((64, 48), (32, 32)), ((50, 50), (50, 25)), ((50, 50), (25, 50)), ((100, 3), (7, 9)), ((3, 100), (9, 7)),
    ((37, 41), (36, 40)), ((37, 41), (38, 42)), ((200, 150), (224, 224)), ((255, 257), (16, 16)), ((40, 40), (1, 1)),
    ((500, 500), (499, 250)), ((640, 480), (224, 224)),
]


def noise(width, height, channels):
    """The picture that tests/pillow.rs makes too: a 32-bit linear congruential generator, high byte."""
    state, values = 12345, bytearray()
    for _ in range(width * height * channels):
        state = (state * 1664525 + 1013904223) % 2**32
        values.append(state >> 24)
    array = np.frombuffer(bytes(values), np.uint8).reshape(height, width, channels)
    return array[:, :, 0] if channels == 1 else array


def digest(image):
    return hashlib.sha256(image.tobytes()).hexdigest()


def resize_vectors():
    cases = []
    for (width, height), (new_width, new_height) in SHAPES:
        for channels in (1, 3):
            image = Image.fromarray(noise(width, height, channels))
            for name, code in FILTERS.items():
                resized = image.resize((new_width, new_height), code)
                cases.append([name, channels, width, height, new_width, new_height, digest(resized)])
    return cases


def conversions():
    """PNG files of every kind with Pillow's RGB and L pixels, as digests."""
    rgb = noise(6, 5, 3)
    alpha = noise(6, 5, 4)
    grey = noise(6, 5, 1)
    palette = Image.fromarray(rgb).quantize(8)
    one_bit = Image.fromarray((grey > 127).astype(np.uint8) * 255).convert("1")
    upright = Image.fromarray(rgb)
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its side: turn 90 degrees clockwise
    images = {
        "rgb": (upright, {}), "rgba": (Image.fromarray(alpha), {}), "grey": (Image.fromarray(grey), {}),
        "palette": (palette, {}), "one-bit": (one_bit, {}), "turned": (upright, {"exif": exif}),
    }
    from PIL import ImageOps
    cases = {}
    for name, (image, options) in images.items():
        buffer = io.BytesIO()
        image.save(buffer, "PNG", **options)
        again = ImageOps.exif_transpose(Image.open(io.BytesIO(buffer.getvalue())))
        cases[name] = {
            "png": buffer.getvalue().hex(),
            "size": list(again.size),
            "rgb": digest(again.convert("RGB")),
            "grey": digest(again.convert("L")),
        }
    return cases


def model(name, nodes, input_shape, output_shape, initializers=()):
    graph = helper.make_graph(
        nodes, name,
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, input_shape)],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, output_shape)],
        [numpy_helper.from_array(value, label) for label, value in initializers],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], producer_name="make.py")
    made.ir_version = 8
    onnx.checker.check_model(made, full_check=True)
    (HERE / f"{name}.onnx").write_bytes(made.SerializeToString(deterministic=True))


def models():
    f32 = lambda *values: np.array(values, np.float32)
    # Means of the red, green and blue channel as logits, times 10.
    model("colour", [
        helper.make_node("GlobalAveragePool", ["input"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("Mul", ["flat", "ten"], ["output"]),
    ], [1, 3, 4, 4], [1, 3], [("ten", f32(10))])
    # A "reconstruction" that knows values up to 1 only.
    model("clip", [helper.make_node("Clip", ["input", "low", "high"], ["output"])],
          [1, 1, 8], [1, 1, 8], [("low", np.float32(-1)), ("high", np.float32(1))])
    # Mean and sum of a window of 8.
    model("mean-sum", [
        helper.make_node("Flatten", ["input"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["output"]),
    ], [1, 1, 8], [1, 2], [("weights", np.stack([np.full(8, 0.125), np.ones(8)], 1).astype(np.float32))])
    # One number divided by the mean: infinite for an empty window.
    model("reciprocal", [
        helper.make_node("Flatten", ["input"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["mean"]),
        helper.make_node("Reciprocal", ["mean"], ["output"]),
    ], [1, 1, 8], [1, 1], [("weights", np.full((8, 1), 0.125, np.float32))])
    # u8 x s8 sums of 64 large products: saturates at 16 bits on x86-64 without session.x64quantprecision.
    one, zero8, zerou8 = np.float32(1), np.int8(0), np.uint8(0)
    weights = np.full((64, 4), 127, np.int8)
    model("int8", [
        helper.make_node("QuantizeLinear", ["input", "scale", "zero_u8"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero_u8"], ["dq"]),
        helper.make_node("DequantizeLinear", ["weights", "scale", "zero_s8"], ["w"]),
        helper.make_node("MatMul", ["dq", "w"], ["product"]),
        helper.make_node("QuantizeLinear", ["product", "large", "zero_u8"], ["qp"]),
        helper.make_node("DequantizeLinear", ["qp", "large", "zero_u8"], ["output"]),
    ], [1, 64], [1, 4], [("scale", one), ("zero_u8", zerou8), ("zero_s8", zero8), ("weights", weights),
                         ("large", np.float32(16384))])
    # Two inputs: outside of what the engine runs.
    graph = helper.make_graph(
        [helper.make_node("Add", ["a", "b"], ["output"])], "two-inputs",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "ab"],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [1])])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], producer_name="make.py")
    made.ir_version = 8
    (HERE / "two-inputs.onnx").write_bytes(made.SerializeToString(deterministic=True))


if __name__ == "__main__":
    golden = {"pillow": PIL.__version__, "resize": resize_vectors(), "conversions": conversions()}
    lines = ",\n    ".join(json.dumps(case) for case in golden["resize"])
    pictures = json.dumps(golden["conversions"], indent=2).replace("\n", "\n  ")
    (HERE / "pillow.json").write_text(
        f'{{\n  "pillow": "{golden["pillow"]}",\n  "resize": [\n    {lines}\n  ],\n  "conversions": {pictures}\n}}\n')
    models()
