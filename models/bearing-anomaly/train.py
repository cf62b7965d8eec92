"""Generates, trains, exports and evaluates the sample model `bearing-anomaly`.

An autoencoder over vibration windows that has only seen sound bearings; what it cannot rebuild is an anomaly. All
recordings are GENERATED here from seeds, after the textbook picture of a rolling bearing; no machine was measured.

    python -m venv .venv && .venv/bin/pip install -r requirements.txt
    .venv/bin/python train.py              # writes data/ and model.onnx, prints the threshold, evaluates; about a minute
    .venv/bin/python train.py --evaluate   # only runs the existing model.onnx over data/evaluation; seconds

Runs on one thread with fixed seeds: the same package versions give the same recordings, and the same weights up to
float noise between processors.
"""

import csv
import shutil
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
SEED = 20260131
SAMPLE_RATE_HZ = 8192
RECORDING_SAMPLES = 1024
WINDOW = 256
# Preprocessing, as models.toml declares it: (value - mean) / std; the accelerometer's values are in g.
MEAN = np.float32(0.0)
STD = np.float32(1.0)
# Independent random streams: recordings of different splits share no random number, so the sets cannot overlap.
SPLITS = {"training": 0, "calibration": 1, "evaluation": 2, "threshold": 3}
CALIBRATION_RECORDINGS = 40
EVALUATION_RECORDINGS = 200
THRESHOLD_RECORDINGS = 1000
TRAINING_RECORDINGS = 12000
EPOCHS = 12
BATCH = 128

# Fault frequencies as multiples of the shaft's, for a deep-groove bearing with 9 balls: a ball passes a dent in the
# outer race, a dent in the inner race passes a ball, a dent in a ball meets a race (twice per turn of the ball).
OUTER_RACE, INNER_RACE, BALL_SPIN, CAGE = 3.585, 5.415, 2.357, 0.398


# -------------------------------------------------------------------------------------------------- recordings


def impulses(rng, phase, rate_hz, modulation):
    """The ringing of a resonance that each pass over the dent excites; unit size, f64 [samples].

    `phase`: shaft angle in turns at each sample; `rate_hz`: resonance; `modulation`: size of a hit at a sample.
    """
    turn = np.floor(phase + rng.random())
    hits = np.flatnonzero(np.diff(turn, prepend=turn[0]) > 0)
    train = np.zeros(RECORDING_SAMPLES)
    # Balls slip: hits come a little early or late, and differ in size.
    late = np.clip(hits + np.round(rng.normal(0, 0.8, len(hits))).astype(int), 0, RECORDING_SAMPLES - 1)
    train[late] = modulation[hits] * rng.uniform(0.7, 1.3, len(hits))
    time = np.arange(80) / SAMPLE_RATE_HZ
    ring = np.exp(-time / rng.uniform(0.0008, 0.0016)) * np.sin(2 * np.pi * rate_hz * time)
    return np.convolve(train, ring)[:RECORDING_SAMPLES]


def recording(rng, fault):
    """One recording in g, f32 [1024, 1]; `fault`: None, "outer", "inner" or "ball"."""
    time = np.arange(RECORDING_SAMPLES) / SAMPLE_RATE_HZ
    # The shaft turns at 27..32 Hz and breathes a little with the load.
    shaft_hz = rng.uniform(27, 32)
    breath = rng.uniform(0, 0.01) * np.sin(2 * np.pi * rng.uniform(1, 5) * time + rng.uniform(0, 2 * np.pi))
    turns = np.cumsum(shaft_hz * (1 + breath)) / SAMPLE_RATE_HZ
    load = rng.uniform(0.6, 1.4)
    signal = np.zeros(RECORDING_SAMPLES)
    # Imbalance, misalignment, looseness: harmonics of the shaft. The load scales them, so loudness says little.
    for harmonic, size in ((1, 0.8), (2, 0.45), (3, 0.25), (4, 0.12), (5, 0.08)):
        size = load * size * rng.uniform(0.5, 1.5)
        signal += size * np.sin(2 * np.pi * (harmonic * turns + rng.random()))
    # The gear: its mesh frequency (17 teeth) with side bands from the shaft.
    mesh = 1 + 0.4 * np.sin(2 * np.pi * (turns + rng.random()))
    signal += load * rng.uniform(0.15, 0.35) * mesh * np.sin(2 * np.pi * (17 * turns + rng.random()))
    # Broadband noise, and knocks from the neighbourhood that hit sound bearings too.
    signal += rng.uniform(0.18, 0.22) * rng.standard_normal(RECORDING_SAMPLES)
    if rng.random() < 0.10:
        knock = rng.integers(0, RECORDING_SAMPLES)
        ring = np.exp(-np.arange(RECORDING_SAMPLES - knock) / rng.uniform(8, 20))
        signal[knock:] += rng.uniform(0.3, 1.2) * ring * np.sin(2 * np.pi * rng.uniform(0.05, 0.3) * np.arange(len(ring)))
    if fault:
        resonance_hz = rng.uniform(2200, 3000)
        severity = np.exp(rng.uniform(np.log(0.50), np.log(2.5)))
        steady = np.ones(RECORDING_SAMPLES)
        if fault == "outer":
            # The dent stays in the load zone.
            hits = impulses(rng, OUTER_RACE * turns, resonance_hz, steady)
        elif fault == "inner":
            # The dent turns with the shaft through the load zone.
            zone = np.clip(0.5 + 0.8 * np.cos(2 * np.pi * (turns + rng.random())), 0.05, None)
            hits = impulses(rng, INNER_RACE * turns, resonance_hz, zone)
        else:
            # The ball travels with the cage through the load zone.
            zone = 0.7 + 0.5 * np.cos(2 * np.pi * (CAGE * turns + rng.random()))
            hits = impulses(rng, 2 * BALL_SPIN * turns, resonance_hz, zone)
        signal += severity * hits
    return signal.astype(np.float32)[:, None]


def recordings(split, count, faulty=False):
    """Yields (recording, fault or None); with `faulty`, every second one has a fault, the kinds taking turns."""
    for index in range(count):
        rng = np.random.default_rng([SEED, SPLITS[split], index])
        fault = ("outer", "inner", "ball")[index // 2 % 3] if faulty and index % 2 else None
        yield recording(rng, fault), fault


def write_split(split, count, faulty):
    folder = HERE / "data" / split
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with open(folder / "labels.csv", "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("file", "label"))
        for index, (values, fault) in enumerate(recordings(split, count, faulty)):
            np.save(folder / f"recording-{index:04}.npy", values.astype("<f4"))
            writer.writerow((f"recording-{index:04}.npy", int(fault is not None)))


def windows(values):
    """f32 [samples, 1] to f32 [windows, 1, 256]; stride 256, the incomplete last window is dropped."""
    whole = len(values) // WINDOW * WINDOW
    return (values[:whole, 0].reshape(-1, 1, WINDOW) - MEAN) / STD


# ------------------------------------------------------------------------------------------------------- model


def network():
    from torch import nn

    return nn.ModuleDict({
        "conv1": nn.Conv1d(1, 16, 9, stride=2, padding=4),
        "conv2": nn.Conv1d(16, 24, 5, stride=2, padding=2),
        "conv3": nn.Conv1d(24, 32, 5, stride=2, padding=2),
        "code": nn.Linear(32 * 32, 32),
        "expand": nn.Linear(32, 192),
        "rebuild": nn.Linear(192, WINDOW),
    })


def forward(modules, x):
    from torch.nn import functional

    for name in ("conv1", "conv2", "conv3"):
        x = functional.relu(modules[name](x))
    x = functional.relu(modules["code"](x.flatten(1)))
    x = functional.relu(modules["expand"](x))
    return modules["rebuild"](x).reshape(-1, 1, WINDOW)


def train():
    import torch
    from torch.nn import functional

    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    drawn = np.concatenate([windows(values) for values, _ in recordings("training", TRAINING_RECORDINGS)])
    inputs = torch.from_numpy(drawn)
    print(f"{len(inputs)} training windows", flush=True)
    modules = network()
    print("parameters:", sum(p.numel() for p in modules.parameters()))
    optimizer = torch.optim.Adam(modules.parameters())
    batches = len(inputs) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=EPOCHS * batches)
    for epoch in range(EPOCHS):
        total = 0.0
        order = torch.randperm(len(inputs))
        for batch in range(batches):
            x = inputs[order[batch * BATCH : (batch + 1) * BATCH]]
            loss = functional.mse_loss(forward(modules, x), x)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        print(f"epoch {epoch + 1}: loss {total / batches:.5f}", flush=True)
    return modules.eval()


# ------------------------------------------------------------------------------------------------------ export


def export(modules, path):
    """Writes the graph by hand, so that it holds nothing but the network."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes, initializers = [], []

    def constant(name, values):
        array = np.ascontiguousarray(values.detach().numpy(), np.float32)
        initializers.append(numpy_helper.from_array(array, name))
        return name

    def node(op, name, inputs, output=None, **attributes):
        nodes.append(helper.make_node(op, inputs, [output or name], name, **attributes))
        return output or name

    def parameters(name):
        return [constant(f"{name}.weight", modules[name].weight), constant(f"{name}.bias", modules[name].bias)]

    x = "input"
    for name in ("conv1", "conv2", "conv3"):
        pad, kernel = modules[name].padding[0], modules[name].kernel_size[0]
        x = node("Conv", name, [x] + parameters(name), kernel_shape=[kernel], strides=[2], pads=[pad, pad])
        x = node("Relu", f"{name}_relu", [x])
    x = node("Flatten", "features", [x], axis=1)
    for name in ("code", "expand"):
        x = node("Gemm", name, [x] + parameters(name), transB=1)
        x = node("Relu", f"{name}_relu", [x])
    x = node("Gemm", "rebuild", [x] + parameters("rebuild"), transB=1)
    initializers.append(numpy_helper.from_array(np.array([1, 1, WINDOW], np.int64), "window_shape"))
    node("Reshape", "window", [x, "window_shape"], output="output")

    shape = [1, 1, WINDOW]
    graph = helper.make_graph(
        nodes, "bearing-anomaly",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, shape)],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    model.producer_name = "bearing-anomaly/train.py"
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString(deterministic=True))


# -------------------------------------------------------------------------------------------------- evaluation


def scorer(path):
    """A function from a recording to the scores of its windows: mean squared error between input and output."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def score(values):
        pairs = ((x, session.run(["output"], {"input": x[None]})[0][0]) for x in windows(values))
        return np.array([np.mean((x.astype(np.float64) - y) ** 2) for x, y in pairs])

    return score


def roc_auc(labels, scores):
    """Share of (faulty, sound) pairs in which the faulty one scores higher; ties count half."""
    faulty, sound = scores[labels == 1][:, None], scores[labels == 0][None, :]
    return float(np.mean((faulty > sound) + 0.5 * (faulty == sound)))


def find_threshold(path):
    """The 99th percentile of the window scores of sound bearings that nothing else has seen."""
    score = scorer(path)
    scores = np.concatenate([score(values) for values, _ in recordings("threshold", THRESHOLD_RECORDINGS)])
    threshold = float(np.quantile(scores, 0.99))
    print(f"threshold: {threshold:.4f} (99 % of {len(scores)} held-out sound windows are below)")
    return threshold


def evaluate(path):
    """ROC AUC and alarms of an ONNX file over the files on disk, prepared as on the device."""
    threshold = find_threshold(path)
    score = scorer(path)
    labels, scores, loudness = [], [], []
    with open(HERE / "data" / "evaluation" / "labels.csv", newline="") as file:
        for row in csv.DictReader(file):
            values = np.load(HERE / "data" / "evaluation" / row["file"])
            labels.append(int(row["label"]))
            scores.append(score(values))
            loudness.append([np.mean(window**2) for window in windows(values)])
    labels, scores, loudness = np.array(labels), np.array(scores), np.array(loudness)
    each = np.repeat(labels, scores.shape[1])
    print(f"evaluation: {len(labels)} recordings, {labels.sum()} faulty")
    print(f"  ROC AUC per recording (mean of its windows): {roc_auc(labels, scores.mean(1)):.4f}")
    print(f"  ROC AUC per window: {roc_auc(each, scores.ravel()):.4f}")
    print(f"  for comparison, mean square instead of the model, per recording: {roc_auc(labels, loudness.mean(1)):.4f}")
    print(f"  windows above the threshold: {(scores[labels == 1] > threshold).mean():.3f} of the faulty recordings, "
          f"{(scores[labels == 0] > threshold).mean():.3f} of the sound ones")


def main():
    if sys.argv[1:] not in ([], ["--evaluate"]):
        sys.exit("usage: train.py [--evaluate]")
    if not sys.argv[1:]:
        write_split("calibration", CALIBRATION_RECORDINGS, faulty=False)
        write_split("evaluation", EVALUATION_RECORDINGS, faulty=True)
        export(train(), HERE / "model.onnx")
    evaluate(HERE / "model.onnx")


if __name__ == "__main__":
    main()
