"""Generates, trains, exports and evaluates the sample model `surface-defects`.

Classifies 96x96 colour patches of brushed metal: ok, scratch, pit, stain. All pictures are GENERATED here from
seeds; nobody photographed them. The recipe mixes faint defects with harmless marks that look like them, so that
the right answer is sometimes out of reach and a float accuracy of 100 % would be a bug.

    python -m venv .venv && .venv/bin/pip install -r requirements.txt
    .venv/bin/python train.py              # writes data/, labels.txt and model.onnx, then evaluates; minutes
    .venv/bin/python train.py --evaluate   # only runs the existing model.onnx over data/evaluation; seconds

Runs on one thread with fixed seeds: the same package versions give the same pictures, and the same weights up to
float noise between processors.
"""

import csv
import shutil
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

HERE = Path(__file__).resolve().parent
LABELS = ["ok", "scratch", "pit", "stain"]
SIZE = 96
SEED = 20260131
# Independent random streams: pictures of different splits share no random number, so the sets cannot overlap.
SPLITS = {"training": 0, "calibration": 1, "evaluation": 2}
CALIBRATION_PICTURES = 64
EVALUATION_PICTURES = 400
TRAINING_PICTURES = 16000
EPOCHS = 8
BATCH = 64
# Preprocessing, as models.toml declares it: (pixel / 255 - mean) / std per channel.
MEAN = np.array([0.50, 0.50, 0.50], np.float32)
STD = np.array([0.12, 0.12, 0.12], np.float32)

ROWS, COLUMNS = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32)
FREQUENCY_Y = np.fft.fftfreq(SIZE).astype(np.float32)[:, None]
FREQUENCY_X = np.fft.rfftfreq(SIZE).astype(np.float32)[None, :]


# ---------------------------------------------------------------------------------------------------- pictures


def along_and_across(angle, y, x):
    """Pixel coordinates relative to (y, x) along and across a direction; radians."""
    dy, dx = ROWS - y, COLUMNS - x
    return dx * np.cos(angle) + dy * np.sin(angle), dy * np.cos(angle) - dx * np.sin(angle)


def filtered_noise(rng, sigma_along, sigma_across, angle):
    """Noise of unit variance, smoothed by a Gaussian with the given widths in pixels (periodic)."""
    along = FREQUENCY_X * np.cos(angle) + FREQUENCY_Y * np.sin(angle)
    across = FREQUENCY_Y * np.cos(angle) - FREQUENCY_X * np.sin(angle)
    gain = np.exp(-2 * np.pi**2 * ((sigma_along * along) ** 2 + (sigma_across * across) ** 2))
    noise = rng.standard_normal((SIZE, SIZE), dtype=np.float32)
    smooth = np.fft.irfft2(np.fft.rfft2(noise) * gain, s=(SIZE, SIZE))
    return (smooth / (smooth.std() + 1e-6)).astype(np.float32)


def somewhere(rng, margin):
    return rng.uniform(margin, SIZE - margin, 2)


def sign(rng):
    return 1.0 if rng.random() < 0.5 else -1.0


def metal(rng):
    """Brightness of a sound patch and its brush direction, with the harmless marks that resemble defects."""
    angle = rng.uniform(0, np.pi)
    light = np.full((SIZE, SIZE), rng.uniform(0.38, 0.62), np.float32)
    light += rng.uniform(0.018, 0.042) * filtered_noise(rng, rng.uniform(8, 25), rng.uniform(0.6, 1.1), angle)
    light += rng.uniform(0.004, 0.012) * filtered_noise(rng, 0.6, 0.6, 0.0)
    # Lighting: a slope over the patch, and broad shades that a stain must be told from.
    slope, _ = along_and_across(rng.uniform(0, 2 * np.pi), SIZE / 2, SIZE / 2)
    light += rng.uniform(0, 0.14) * slope / SIZE
    for _ in range(rng.integers(0, 3)):
        y, x = rng.uniform(-20, SIZE + 20, 2)
        width = rng.uniform(25, 50)
        light += sign(rng) * rng.uniform(0, 0.06) * np.exp(-((ROWS - y) ** 2 + (COLUMNS - x) ** 2) / (2 * width**2))
    # Deep brush lines: like a scratch, but along the brush.
    for _ in range(rng.integers(0, 4)):
        along, across = along_and_across(angle + rng.normal(0, 0.03), *somewhere(rng, 0))
        window = 1 / (1 + np.exp((np.abs(along) - rng.uniform(25, 80)) / 3))
        light += sign(rng) * rng.uniform(0.02, 0.09) * np.exp(-((across / rng.uniform(0.6, 1.2)) ** 2)) * window
    # Dust: like a pit, but smaller and without a lit rim.
    for _ in range(rng.integers(0, 5)):
        y, x = somewhere(rng, 2)
        radius = rng.uniform(0.6, 1.1)
        light += sign(rng) * rng.uniform(0.05, 0.16) * np.exp(-((ROWS - y) ** 2 + (COLUMNS - x) ** 2) / radius**2)
    return light, angle


def scratch(rng, angle):
    """Brightness of a thin, slightly bent line at an angle to the brush."""
    along, across = along_and_across(angle + sign(rng) * rng.uniform(0.4, np.pi / 2), *somewhere(rng, 18))
    across = across - rng.normal(0, 0.003) * along**2
    window = 1 / (1 + np.exp((np.abs(along) - rng.uniform(12, 40)) / 2))
    width = rng.uniform(0.7, 1.4)
    line = np.exp(-((across / width) ** 2))
    # The burr that the tool threw up beside the groove reflects.
    burr = np.exp(-(((across - 1.6 * width) / width) ** 2)) * rng.uniform(0, 0.6)
    return sign(rng) * rng.uniform(0.08, 0.25) * (line - burr) * window


def pit(rng):
    """Brightness of one to three small holes, dark, with the rim away from the light bright."""
    light = np.zeros((SIZE, SIZE), np.float32)
    direction = rng.uniform(0, 2 * np.pi)
    depth = rng.uniform(0.10, 0.30)
    for _ in range(rng.integers(1, 4)):
        y, x = somewhere(rng, 6)
        radius = rng.uniform(1.7, 3.8)
        distance = np.sqrt((ROWS - y) ** 2 + (COLUMNS - x) ** 2)
        along, _ = along_and_across(direction, y, x)
        rim = np.exp(-(((distance - 1.25 * radius) / (0.4 * radius)) ** 2)) * np.clip(along / radius, 0, 1)
        light += depth * (0.7 * rim - np.exp(-((distance / radius) ** 4)))
    return light


def stain(rng):
    """Cover (0..1) of an irregular blot."""
    y, x = somewhere(rng, 14)
    field = np.zeros((SIZE, SIZE), np.float32)
    for _ in range(rng.integers(2, 6)):
        by, bx = y + rng.normal(0, 7), x + rng.normal(0, 7)
        width = rng.uniform(5, 11)
        field += np.exp(-((ROWS - by) ** 2 + (COLUMNS - bx) ** 2) / (2 * width**2))
    field += 0.12 * filtered_noise(rng, 2.5, 2.5, 0.0)
    return 1 / (1 + np.exp(-(field - 0.5) / rng.uniform(0.08, 0.3)))


def picture(rng, label):
    """One patch, u8 [96, 96, 3]."""
    light, angle = metal(rng)
    cover = np.zeros((SIZE, SIZE), np.float32)
    if label == "scratch":
        light += scratch(rng, angle)
    elif label == "pit":
        light += pit(rng)
    elif label == "stain":
        cover = stain(rng)
        light -= rng.uniform(0.03, 0.12) * cover
        cover *= rng.uniform(0.2, 1.0)
    # 32 grey levels and 5 of stain, as a cheap camera with strong compression gives; also keeps the PNGs small.
    light = np.floor(np.clip(light, 0, 0.999) * 32) / 31
    cover = np.round(cover * 4) / 4
    tint = 1 + rng.normal(0, 0.02, 3)
    blot = np.array([0.015, -0.005, -0.04]) * rng.uniform(0.3, 1.0)
    colour = light[..., None] * tint + cover[..., None] * blot
    return np.round(np.clip(colour, 0, 1) * 255).astype(np.uint8)


def pictures(split, count):
    """Yields (picture, class index); classes take turns."""
    for index in range(count):
        rng = np.random.default_rng([SEED, SPLITS[split], index])
        yield picture(rng, LABELS[index % len(LABELS)]), index % len(LABELS)


def write_split(split, count):
    folder = HERE / "data" / split
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    rows = []
    for index, (pixels, label) in enumerate(pictures(split, count)):
        name = f"patch-{index:04}.png"
        Image.fromarray(pixels).save(folder / name, optimize=True)
        rows.append((name, LABELS[label]))
    with open(folder / "labels.csv", "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("file", "label"))
        writer.writerows(rows)


def prepare(pixels):
    """u8 [.., 96, 96, 3] to f32 [.., 3, 96, 96]."""
    values = (pixels.astype(np.float32) * np.float32(1 / 255) - MEAN) / STD
    return np.ascontiguousarray(np.moveaxis(values, -1, -3))


# ------------------------------------------------------------------------------------------------------- model

# (channels in, channels out, stride) of the depthwise-separable blocks; equal channels and stride 1 add a shortcut.
BLOCKS = [
    (16, 24, 1),
    (24, 48, 2), (48, 48, 1),
    (48, 96, 2), (96, 96, 1),
    (96, 160, 2), (160, 160, 1), (160, 160, 1),
    (160, 320, 2), (320, 320, 1), (320, 320, 1), (320, 320, 1), (320, 320, 1),
]


def network():
    """The network as a flat torch module list; `forward` and `export` read the same list."""
    from torch import nn

    def conv(c_in, c_out, kernel, stride, groups):
        return nn.Sequential(
            nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(c_out)
        )

    modules = nn.ModuleDict({"stem": conv(3, 16, 3, 2, 1)})
    for index, (c_in, c_out, stride) in enumerate(BLOCKS):
        modules[f"block{index}_depthwise"] = conv(c_in, c_in, 3, stride, c_in)
        modules[f"block{index}_pointwise"] = conv(c_in, c_out, 1, 1, 1)
        if stride == 1 and c_in == c_out:
            # A block with a shortcut starts as the shortcut alone, which trains faster.
            nn.init.zeros_(modules[f"block{index}_pointwise"][1].weight)
    modules["head"] = nn.Linear(BLOCKS[-1][1], len(LABELS))
    return modules


def forward(modules, x):
    from torch.nn import functional

    x = functional.relu(modules["stem"](x))
    for index, (c_in, c_out, stride) in enumerate(BLOCKS):
        y = functional.relu(modules[f"block{index}_depthwise"](x))
        y = modules[f"block{index}_pointwise"](y)
        x = functional.relu(x + y if stride == 1 and c_in == c_out else y)
    return modules["head"](x.mean((2, 3)))


def train():
    import torch
    from torch.nn import functional

    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    start = time.monotonic()
    drawn = list(pictures("training", TRAINING_PICTURES))
    images = torch.from_numpy(np.stack([pixels for pixels, _ in drawn]))
    labels = torch.tensor([label for _, label in drawn])
    print(f"drew {len(drawn)} training pictures in {time.monotonic() - start:.0f} s", flush=True)

    modules = network().to(memory_format=torch.channels_last)
    print("parameters:", sum(p.numel() for p in modules.parameters()))
    decay = [p for p in modules.parameters() if p.ndim > 1]
    plain = [p for p in modules.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW([{"params": decay, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}])
    steps = EPOCHS * (len(drawn) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps, pct_start=0.2)
    mean, std = torch.from_numpy(MEAN), torch.from_numpy(STD)
    for epoch in range(EPOCHS):
        total = 0.0
        order = torch.randperm(len(drawn))
        for batch in range(len(drawn) // BATCH):
            chosen = order[batch * BATCH : (batch + 1) * BATCH]
            x = ((images[chosen].float() / 255 - mean) / std).permute(0, 3, 1, 2)
            # A patch has no up or down: one of the eight flips and quarter turns.
            if torch.rand(()) < 0.5:
                x = x.transpose(2, 3)
            x = x.flip([axis for axis in (2, 3) if torch.rand(()) < 0.5])
            x = x.contiguous(memory_format=torch.channels_last)
            loss = functional.cross_entropy(forward(modules, x), labels[chosen], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        print(f"epoch {epoch + 1}: loss {total / (len(drawn) // BATCH):.4f}, {time.monotonic() - start:.0f} s", flush=True)
    return modules.eval()


# ------------------------------------------------------------------------------------------------------ export


def export(modules, path):
    """Writes the graph by hand, so that it holds nothing but the network; batch norms are folded into the convolutions."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes, initializers = [], []

    def constant(name, values):
        initializers.append(numpy_helper.from_array(np.ascontiguousarray(values, np.float32), name))
        return name

    def conv(name, x):
        convolution, norm = modules[name]
        gain = (norm.weight / (norm.running_var + norm.eps).sqrt()).detach().numpy().astype(np.float64)
        weight = convolution.weight.detach().numpy().astype(np.float64) * gain[:, None, None, None]
        bias = norm.bias.detach().numpy().astype(np.float64) - norm.running_mean.numpy().astype(np.float64) * gain
        pad, kernel = list(convolution.padding), list(convolution.kernel_size)
        nodes.append(
            helper.make_node(
                "Conv", [x, constant(f"{name}.weight", weight), constant(f"{name}.bias", bias)], [name], name,
                kernel_shape=kernel, strides=list(convolution.stride), pads=pad + pad, group=convolution.groups,
            )
        )
        return name

    def node(op, inputs, name, **attributes):
        nodes.append(helper.make_node(op, inputs, [name], name, **attributes))
        return name

    x = node("Relu", [conv("stem", "input")], "stem_relu")
    for index, (c_in, c_out, stride) in enumerate(BLOCKS):
        y = node("Relu", [conv(f"block{index}_depthwise", x)], f"block{index}_depthwise_relu")
        y = conv(f"block{index}_pointwise", y)
        if stride == 1 and c_in == c_out:
            y = node("Add", [x, y], f"block{index}_add")
        x = node("Relu", [y], f"block{index}_relu")
    x = node("Flatten", [node("GlobalAveragePool", [x], "pool")], "features", axis=1)
    head = modules["head"]
    weight = constant("head.weight", head.weight.detach().numpy())
    bias = constant("head.bias", head.bias.detach().numpy())
    nodes.append(helper.make_node("Gemm", [x, weight, bias], ["output"], "head", transB=1))

    graph = helper.make_graph(
        nodes, "surface-defects",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, len(LABELS)])],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    model.producer_name = "surface-defects/train.py"
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString(deterministic=True))


# -------------------------------------------------------------------------------------------------- evaluation


def evaluate(path, split="evaluation"):
    """Accuracy of an ONNX file over the files on disk, prepared as on the device."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    confusion = np.zeros((len(LABELS), len(LABELS)), int)
    with open(HERE / "data" / split / "labels.csv", newline="") as file:
        for row in csv.DictReader(file):
            pixels = np.asarray(Image.open(HERE / "data" / split / row["file"]).convert("RGB"))
            (logits,) = session.run(["output"], {"input": prepare(pixels)[None]})
            confusion[LABELS.index(row["label"]), int(logits[0].argmax())] += 1
    print(f"{split}: accuracy {np.trace(confusion) / confusion.sum():.4f} of {confusion.sum()} pictures")
    for label, counts in zip(LABELS, confusion):
        print(f"  {label:8} recognized as {dict(zip(LABELS, map(int, counts)))}")


def main():
    if sys.argv[1:] not in ([], ["--evaluate"]):
        sys.exit("usage: train.py [--evaluate]")
    if not sys.argv[1:]:
        (HERE / "labels.txt").write_text("".join(f"{label}\n" for label in LABELS))
        write_split("calibration", CALIBRATION_PICTURES)
        write_split("evaluation", EVALUATION_PICTURES)
        export(train(), HERE / "model.onnx")
    evaluate(HERE / "model.onnx")


if __name__ == "__main__":
    main()
