"""Makes the nets that docs/quantization.md measures: small, seeded, trained just long enough to have an opinion.

    python make_models.py OUT [NET…]   # needs torch, numpy, onnx and scikit-learn; some forty minutes on one busy core

Per net OUT/<net>/ holds model.onnx (opset 17), calibration/<input>.npy, evaluation/<input>.npy and
evaluation/labels.npy. Data are generated gratings (pictures), phrases (tokens) and waves (sequences); nothing is
fetched. mobilenet-224 and resnet-224 have the published widths and depths; they learn on small pictures and are shown
a few large ones at the end. mobilenet-digits and resnet-digits are the same nets on scikit-learn's digits made large,
with 32 pictures to calibrate on: the setting in which 26 and 37 dB were set as marks.
"""

import pathlib
import sys

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

CLASSES = 10
SIDE = 32


def pictures(count, seed, side=SIDE):
    """Gratings: the class decides direction and spacing; contrast, phase and noise are free."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, CLASSES, count)
    # As many pixels to a period whatever the side, so that what is learnt on small pictures holds on large ones.
    y, x = np.mgrid[0:side, 0:side] / SIDE
    angle = (labels % 5) * np.pi / 5 + random.normal(0, 0.12, count)
    spacing = np.where(labels < 5, 4.0, 5.5) + random.normal(0, 0.35, count)
    phase = random.uniform(0, 2 * np.pi, (count, 3))
    contrast = random.uniform(0.3, 1.0, (count, 3))
    along = np.cos(angle)[:, None, None] * x + np.sin(angle)[:, None, None] * y
    wave = np.sin(2 * np.pi * spacing[:, None, None, None] * along[:, None] + phase[:, :, None, None])
    noise = random.normal(0, 0.9, (count, 3, side, side))
    return (contrast[:, :, None, None] * wave + noise).astype(np.float32), labels.astype(np.int64)


def large_digits(side, part):
    """Scikit-learn's 8×8 digits, enlarged: the first 1,257 of a seeded order to learn from, 128 others to judge by."""
    from sklearn.datasets import load_digits

    grey, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(5).permutation(len(labels))[part]
    small = torch.from_numpy(grey[order].reshape(-1, 1, 8, 8).astype(np.float32) / 8 - 1)
    large = F.interpolate(small, (side, side), mode="bilinear", align_corners=False).expand(-1, 3, -1, -1)
    return large.contiguous().numpy(), labels[order].astype(np.int64)


def phrases(count, seed, vocabulary=2000):
    """Forty tokens of a vocabulary; the class prefers some of them, a mask hides the end."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, CLASSES, count)
    tokens = random.integers(1, vocabulary, (count, 40))
    hints = random.random((count, 40)) < 0.09
    tokens[hints] = (labels[:, None] * 50 + random.integers(1, 50, (count, 40)))[hints]
    length = random.integers(20, 41, count)
    mask = (np.arange(40)[None] < length[:, None]).astype(np.int64)
    return (tokens * mask).astype(np.int64), mask, labels.astype(np.int64)


def waves(count, seed):
    """Fifty steps of six sensors: the class decides how two frequencies follow each other."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, CLASSES, count)
    time = np.arange(50)[None, :, None] / 50
    first, second = 3.0 + labels % 5, 3.0 + (labels * 3 + labels // 5) % 5
    phase = random.uniform(0, 2 * np.pi, (count, 1, 6))
    change = random.uniform(0.4, 0.6, (count, 1, 1))
    speed = np.where(time < change, first[:, None, None], second[:, None, None])
    wave = np.sin(2 * np.pi * speed * time + phase) * random.uniform(0.5, 1.5, (count, 1, 6))
    return (wave + random.normal(0, 0.5, wave.shape)).astype(np.float32), labels.astype(np.int64)


def conv(inputs, outputs, kernel, stride=1, groups=1, activation=nn.ReLU6):
    layers = [nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)]
    layers += [nn.BatchNorm2d(outputs)] + ([activation()] if activation else [])
    return nn.Sequential(*layers)


class Inverted(nn.Module):
    """MobileNetV2's block."""

    def __init__(self, inputs, outputs, stride, activation, wider=4):
        super().__init__()
        hidden = inputs * wider
        self.body = nn.Sequential(
            conv(inputs, hidden, 1, activation=activation),
            conv(hidden, hidden, 3, stride, hidden, activation),
            conv(hidden, outputs, 1, activation=None),
        )
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x):
        return x + self.body(x) if self.adds else self.body(x)


class Residual(nn.Module):
    """ResNet-18's block."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.body = nn.Sequential(
            conv(inputs, outputs, 3, stride, activation=nn.ReLU), conv(outputs, outputs, 3, activation=None)
        )
        same = stride == 1 and inputs == outputs
        self.side = nn.Identity() if same else conv(inputs, outputs, 1, stride, activation=None)

    def forward(self, x):
        return F.relu(self.body(x) + self.side(x))


def classifier(*body, features):
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(features, CLASSES))


def mobile(activation):
    plan = [(16, 24, 2), (24, 24, 1), (24, 32, 2), (32, 32, 1), (32, 48, 1), (48, 48, 1)]
    blocks = [Inverted(*step, activation) for step in plan]
    return classifier(conv(3, 16, 3, activation=activation), *blocks, conv(48, 160, 1, activation=activation), features=160)


def residual():
    plan = [(24, 24, 1), (24, 48, 2), (48, 48, 1), (48, 96, 2), (96, 96, 1)]
    return classifier(conv(3, 24, 3, activation=nn.ReLU), *[Residual(*step) for step in plan], features=96)


def mobile_224():
    """MobileNetV2's table of blocks: wider, channels, repeats, first stride."""
    table = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]
    blocks, inputs = [conv(3, 32, 3, 2)], 32
    for wider, outputs, repeats, stride in table:
        for number in range(repeats):
            blocks.append(Inverted(inputs, outputs, stride if number == 0 else 1, nn.ReLU6, wider))
            inputs = outputs
    return classifier(*blocks, conv(320, 1280, 1), features=1280)


def residual_224():
    plan = [(64, 64, 1), (64, 64, 1), (64, 128, 2), (128, 128, 1), (128, 256, 2), (256, 256, 1), (256, 512, 2), (512, 512, 1)]
    blocks = [Residual(*step) for step in plan]
    return classifier(conv(3, 64, 7, 2, activation=nn.ReLU), nn.MaxPool2d(3, 2, 1), *blocks, features=512)


def uneven():
    """A depthwise net through plain ReLU whose channels are then made uneven without changing what it computes."""
    return mobile(nn.ReLU)


def make_uneven(net, seed):
    generator = torch.Generator().manual_seed(seed)
    blocks = [block for block in net if isinstance(block, Inverted)]
    with torch.no_grad():
        for block in blocks:
            norms = [block.body[0][1], block.body[1][1]]
            next_convs = [block.body[1][0], block.body[2][0]]
            for norm, following in zip(norms, next_convs):
                factor = torch.exp(torch.randn(norm.weight.shape, generator=generator) * 1.3)
                norm.weight *= factor
                norm.bias *= factor
                depthwise = following.weight.shape[1] == 1
                following.weight /= factor[:, None, None, None] if depthwise else factor[None, :, None, None]


class Encoder(nn.Module):
    """Two attention layers, LayerNormalization, GELU and a mask of -10,000, as BERT has them."""

    def __init__(self, width=64, heads=4, vocabulary=2000):
        super().__init__()
        self.heads = heads
        self.tokens = nn.Embedding(vocabulary, width)
        self.places = nn.Parameter(torch.randn(40, width) * 0.02)
        self.layers = nn.ModuleList()
        for _ in range(2):
            self.layers.append(nn.ModuleDict({
                "qkv": nn.Linear(width, 3 * width), "out": nn.Linear(width, width),
                "up": nn.Linear(width, 4 * width), "down": nn.Linear(4 * width, width),
                "before": nn.LayerNorm(width), "between": nn.LayerNorm(width),
            }))
        self.head = nn.Linear(width, CLASSES)

    def forward(self, tokens, mask):
        x = self.tokens(tokens) + self.places
        hidden = (1.0 - mask.float())[:, None, None, :] * -10000.0
        for layer in self.layers:
            batch, length, width = x.shape
            q, k, v = layer["qkv"](x).chunk(3, -1)
            q, k, v = (part.reshape(batch, length, self.heads, -1).transpose(1, 2) for part in (q, k, v))
            scores = q @ k.transpose(-1, -2) / (width / self.heads) ** 0.5 + hidden
            mixed = (scores.softmax(-1) @ v).transpose(1, 2).reshape(batch, length, width)
            x = layer["before"](x + layer["out"](mixed))
            x = layer["between"](x + layer["down"](F.gelu(layer["up"](x))))
        weights = mask.float()[:, :, None]
        return self.head((x * weights).sum(1) / weights.sum(1))


class Recurrent(nn.Module):
    """A bidirectional LSTM over a sequence, read at its two ends."""

    def __init__(self, width=96):
        super().__init__()
        self.lstm = nn.LSTM(6, width, bidirectional=True, batch_first=True)
        self.hidden = nn.Linear(2 * width, 64)
        self.head = nn.Linear(64, CLASSES)

    def forward(self, x):
        seen, _ = self.lstm(x)
        return self.head(F.relu(self.hidden(seen.mean(1))))


def train(net, arrays, labels, epochs, rate):
    inputs = [torch.from_numpy(array) for array in arrays]
    labels = torch.from_numpy(labels)
    steps = epochs * (len(labels) // 64)
    optimizer = torch.optim.AdamW(net.parameters(), rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    net.train()
    for _ in range(epochs):
        order = torch.randperm(len(labels))
        for start in range(0, len(order) - 63, 64):
            batch = order[start : start + 64]
            loss = F.cross_entropy(net(*[array[batch] for array in inputs]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    net.eval()


def save(out, net, names, calibration, evaluation, labels):
    for part, arrays in (("calibration", calibration), ("evaluation", evaluation)):
        (out / part).mkdir(parents=True, exist_ok=True)
        for name, array in zip(names, arrays):
            np.save(out / part / f"{name}.npy", array)
    np.save(out / "evaluation" / "labels.npy", labels)
    one = tuple(torch.from_numpy(array[:1]) for array in evaluation)
    torch.onnx.export(
        net, one, str(out / "model.onnx"), input_names=names, output_names=["logits"], opset_version=17, dynamo=False
    )
    with torch.no_grad():
        guesses = net(*[torch.from_numpy(array) for array in evaluation]).argmax(1).numpy()
    print(f"{out.name}: float accuracy {(guesses == labels).mean():.4f}")


def main():
    out, wanted = pathlib.Path(sys.argv[1]), sys.argv[2:]
    torch.set_num_threads(1)
    sets = [pictures(4000, 1), pictures(64, 2), pictures(1000, 3)]
    nets = {"mobilenet": lambda: mobile(nn.ReLU6), "resnet": residual, "uneven": uneven}
    for number, (name, make) in enumerate(nets.items()):
        if wanted and name not in wanted:
            continue
        torch.manual_seed(number)
        net = make()
        train(net, sets[0][:1], sets[0][1], 4, 4e-3)
        if name == "uneven":
            make_uneven(net, 7)
        save(out / name, net, ["pictures"], sets[1][:1], sets[2][:1], sets[2][1])
    encoders = {"encoder": (9, 64, 2000, 4), "encoder-large": (10, 128, 30522, 3)}
    for name, (seed, width, vocabulary, epochs) in encoders.items():
        if wanted and name not in wanted:
            continue
        torch.manual_seed(seed)
        sets = [phrases(8000, 1, vocabulary), phrases(64, 2, vocabulary), phrases(1000, 3, vocabulary)]
        net = Encoder(width, vocabulary=vocabulary)
        train(net, sets[0][:2], sets[0][2], epochs, 2e-3)
        save(out / name, net, ["tokens", "mask"], sets[1][:2], sets[2][:2], sets[2][2])
    if not wanted or "recurrent" in wanted:
        torch.manual_seed(11)
        sets = [waves(6000, 1), waves(64, 2), waves(1000, 3)]
        net = Recurrent()
        train(net, sets[0][:1], sets[0][1], 5, 5e-3)
        save(out / "recurrent", net, ["waves"], sets[1][:1], sets[2][:1], sets[2][1])
    for number, (name, make) in enumerate({"mobilenet-224": mobile_224, "resnet-224": residual_224}.items()):
        if wanted and name not in wanted:
            continue
        torch.manual_seed(20 + number)
        net = make()
        small, large = pictures(1600, 1, 64), pictures(128, 4, 224)
        train(net, small[:1], small[1], 4, 2e-3)
        train(net, large[:1], large[1], 2, 2e-4)
        sets = [pictures(64, 2, 224), pictures(128, 3, 224)]
        save(out / name, net, ["pictures"], sets[0][:1], sets[1][:1], sets[1][1])
    for number, (name, make) in enumerate({"mobilenet-digits": mobile_224, "resnet-digits": residual_224}.items()):
        if wanted and name not in wanted:
            continue
        torch.manual_seed(30 + number)
        net = make()
        # A digit's strokes grow with the side, so what is learnt on small pictures is only a beginning.
        small, large = large_digits(64, slice(1257)), large_digits(224, slice(1257))
        train(net, small[:1], small[1], 10 if number == 0 else 4, 2e-3)
        train(net, large[:1], large[1], 4 if number == 0 else 2, 1e-3)
        sets = [large_digits(224, slice(32)), large_digits(224, slice(1257, 1385))]
        save(out / name, net, ["pictures"], sets[0][:1], sets[1][:1], sets[1][1])


if __name__ == "__main__":
    main()
