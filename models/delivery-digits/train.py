"""Splits, trains, exports and evaluates the sample model `delivery-digits`.

Reads one handwritten digit from an 8x8 grey picture. The digits are REAL: people wrote them, and scikit-learn ships
them. Nothing is downloaded.

    python -m venv .venv && .venv/bin/pip install -r requirements.txt
    .venv/bin/python train.py              # writes data/, labels.txt and model.onnx, then evaluates; about a minute
    .venv/bin/python train.py --evaluate   # only runs the existing model.onnx over data/evaluation; seconds

Runs on one thread with fixed seeds: the same package versions give the same pictures, and the same weights up to
float noise between processors.
"""

import csv
import shutil
import sys
from pathlib import Path

import numpy as np
from PIL import Image

HERE = Path(__file__).resolve().parent
LABELS = [str(digit) for digit in range(10)]
SIZE = 8
SEED = 20260131
CALIBRATION_PER_DIGIT = 10
EVALUATION_PER_DIGIT = 36
EPOCHS = 60
BATCH = 32


# -------------------------------------------------------------------------------------------------------- data


def load():
    """All 1797 digits as pictures, u8 [n, 8, 8], and their labels; scikit-learn stores 17 levels of ink, 0..16."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    return np.round(digits.images * (255 / 16)).astype(np.uint8), digits.target


def split():
    """Row numbers in scikit-learn's data set per split; every row is in exactly one, evenly over the digits."""
    pictures, labels = load()
    assert len(np.unique(pictures.reshape(len(pictures), -1), axis=0)) == len(pictures), "twins could span two splits"
    rng = np.random.default_rng(SEED)
    rows = {"calibration": [], "evaluation": [], "training": []}
    for digit in range(10):
        own = rng.permutation(np.flatnonzero(labels == digit))
        evaluation_end = CALIBRATION_PER_DIGIT + EVALUATION_PER_DIGIT
        rows["calibration"] += own[:CALIBRATION_PER_DIGIT].tolist()
        rows["evaluation"] += own[CALIBRATION_PER_DIGIT:evaluation_end].tolist()
        rows["training"] += own[evaluation_end:].tolist()
    return pictures, labels, {name: sorted(own) for name, own in rows.items()}


def write_split(name, rows, pictures, labels):
    folder = HERE / "data" / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with open(folder / "labels.csv", "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("file", "label"))
        for row in rows:
            Image.fromarray(pictures[row]).save(folder / f"digit-{row:04}.png", optimize=True)
            writer.writerow((f"digit-{row:04}.png", LABELS[labels[row]]))


def prepare(pixels):
    """u8 [.., 8, 8] to f32 [.., 1, 8, 8]; grey, scale 1/255, mean 0, standard deviation 1, as models.toml declares."""
    return (pixels.astype(np.float32) * np.float32(1 / 255))[..., None, :, :]


# ------------------------------------------------------------------------------------------------------- model


def network():
    from torch import nn

    return nn.ModuleDict({
        "conv1": nn.Conv2d(1, 16, 3, padding=1, bias=False), "norm1": nn.BatchNorm2d(16),
        "conv2": nn.Conv2d(16, 32, 3, padding=1, bias=False), "norm2": nn.BatchNorm2d(32),
        "conv3": nn.Conv2d(32, 48, 3, padding=1, bias=False), "norm3": nn.BatchNorm2d(48),
        "hidden": nn.Linear(48 * 2 * 2, 64),
        "head": nn.Linear(64, 10),
    })


def forward(modules, x, dropout=0.0):
    from torch.nn import functional

    x = functional.relu(modules["norm1"](modules["conv1"](x)))
    x = functional.relu(modules["norm2"](modules["conv2"](x)))
    x = functional.max_pool2d(x, 2)
    x = functional.relu(modules["norm3"](modules["conv3"](x)))
    x = functional.max_pool2d(x, 2).flatten(1)
    x = functional.dropout(functional.relu(modules["hidden"](x)), dropout, training=dropout > 0)
    return modules["head"](x)


def wobble(x):
    """Turns, stretches and shifts each picture a little, as handwriting does; x is f32 [n, 1, 8, 8]."""
    import torch
    from torch.nn import functional

    count = len(x)
    angle = (torch.rand(count) - 0.5) * 0.4
    stretch = 1 + (torch.rand(count, 2) - 0.5) * 0.2
    shift = (torch.rand(count, 2) - 0.5) * 0.3
    affine = torch.stack([
        torch.stack([angle.cos() * stretch[:, 0], -angle.sin(), shift[:, 0]], 1),
        torch.stack([angle.sin(), angle.cos() * stretch[:, 1], shift[:, 1]], 1),
    ], 1)
    grid = functional.affine_grid(affine, list(x.shape), align_corners=False)
    return functional.grid_sample(x, grid, align_corners=False)


def train(pictures, labels):
    import torch
    from torch.nn import functional

    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    inputs, targets = torch.from_numpy(prepare(pictures)), torch.from_numpy(labels)
    modules = network()
    print("parameters:", sum(p.numel() for p in modules.parameters()))
    optimizer = torch.optim.AdamW(modules.parameters(), weight_decay=0.01)
    batches = len(inputs) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=EPOCHS * batches)
    for epoch in range(EPOCHS):
        total = 0.0
        order = torch.randperm(len(inputs))
        for batch in range(batches):
            chosen = order[batch * BATCH : (batch + 1) * BATCH]
            logits = forward(modules, wobble(inputs[chosen]), 0.2)
            loss = functional.cross_entropy(logits, targets[chosen], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        if (epoch + 1) % 10 == 0:
            print(f"epoch {epoch + 1}: loss {total / batches:.4f}", flush=True)
    return modules.eval()


# ------------------------------------------------------------------------------------------------------ export


def export(modules, path):
    """Writes the graph by hand, so that it holds nothing but the network.

    The batch norms stay nodes of their own: folding them is the release's preparation step.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes, initializers = [], []

    def constant(name, values):
        array = np.ascontiguousarray(values.detach().numpy(), np.float32)
        initializers.append(numpy_helper.from_array(array, name))
        return name

    def node(op, inputs, name, **attributes):
        nodes.append(helper.make_node(op, inputs, [name], name, **attributes))
        return name

    def conv(index, x):
        weight = constant(f"conv{index}.weight", modules[f"conv{index}"].weight)
        x = node("Conv", [x, weight], f"conv{index}", kernel_shape=[3, 3], strides=[1, 1], pads=[1, 1, 1, 1])
        norm = modules[f"norm{index}"]
        parts = {"weight": norm.weight, "bias": norm.bias, "mean": norm.running_mean, "variance": norm.running_var}
        inputs = [x] + [constant(f"norm{index}.{part}", values) for part, values in parts.items()]
        return node("Relu", [node("BatchNormalization", inputs, f"norm{index}", epsilon=norm.eps)], f"relu{index}")

    def pool(index, x):
        return node("MaxPool", [x], f"pool{index}", kernel_shape=[2, 2], strides=[2, 2])

    def gemm(name, x, output):
        layer = modules[name]
        inputs = [x, constant(f"{name}.weight", layer.weight), constant(f"{name}.bias", layer.bias)]
        nodes.append(helper.make_node("Gemm", inputs, [output], name, transB=1))
        return output

    x = pool(1, conv(2, conv(1, "input")))
    x = node("Flatten", [pool(2, conv(3, x))], "features", axis=1)
    x = node("Relu", [gemm("hidden", x, "hidden")], "hidden_relu")
    gemm("head", x, "output")

    graph = helper.make_graph(
        nodes, "delivery-digits",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 1, SIZE, SIZE])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, len(LABELS)])],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    model.producer_name = "delivery-digits/train.py"
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString(deterministic=True))


# -------------------------------------------------------------------------------------------------- evaluation


def evaluate(path):
    """Accuracy of an ONNX file over the files on disk, prepared as on the device."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    right, total, wrong = 0, 0, []
    with open(HERE / "data" / "evaluation" / "labels.csv", newline="") as file:
        for row in csv.DictReader(file):
            pixels = np.asarray(Image.open(HERE / "data" / "evaluation" / row["file"]).convert("L"))
            (logits,) = session.run(["output"], {"input": prepare(pixels)[None]})
            answer = LABELS[int(logits[0].argmax())]
            total += 1
            right += answer == row["label"]
            if answer != row["label"]:
                wrong.append(f"{row['file']}: {row['label']} read as {answer}")
    print(f"evaluation: accuracy {right / total:.4f} of {total} pictures")
    for line in wrong:
        print(" ", line)


def main():
    if sys.argv[1:] not in ([], ["--evaluate"]):
        sys.exit("usage: train.py [--evaluate]")
    if not sys.argv[1:]:
        (HERE / "labels.txt").write_text("".join(f"{label}\n" for label in LABELS))
        pictures, labels, rows = split()
        for name in ("calibration", "evaluation"):
            write_split(name, rows[name], pictures, labels)
        export(train(pictures[rows["training"]], labels[rows["training"]]), HERE / "model.onnx")
    evaluate(HERE / "model.onnx")


if __name__ == "__main__":
    main()
