"""Our quantizer beside onnxruntime.quantization, NNCF and AIMET on the same nets and samples, in one run.

    python compare.py XTASK NETS [NET…]   # XTASK: the built command line; NETS: what make_models.py wrote
                                          # needs onnx, onnxruntime, numpy, sympy; run inside the workspace
    NNCF_PYTHON=… python compare.py …     # a Python with nncf, which is compared too
    AIMET_PYTHON=… python compare.py …    # a Python with aimet-onnx, the same
    VARIANTS="min-max|AIMET$" python compare.py …   # only variants whose name holds this, and ours
    EMULATOR="qemu-x86_64-static -cpu Haswell" python compare.py …   # and what a processor that saturates computes

Quality is measured on the evaluation samples: accuracy, share of equal answers and signal to noise of the outputs
against float. `to ours` is a variant's SQNR minus ours on the same samples, with the standard error of that
difference (the samples drawn anew 400 times, both variants alike). `saturated` is the SQNR of the first samples on the
emulated processor. Latency: batch 1, one thread, all variants in turns, median of ratios to float. Cost: CPU seconds
and peak memory of a fresh process that makes the file (ours searches, compares and measures too).
"""

import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

import numpy as np

REFERENCES = {
    "min-max, per channel": dict(per_channel=True),
    "the same, 7 bits": dict(per_channel=True, reduce_range=True),
    "min-max, per tensor": dict(per_channel=False),
    "percentile, per channel": dict(per_channel=True, calibrate_method="Percentile"),
    "dynamic u8": dict(dynamic=True),
}


NNCF = {
    "NNCF, fast bias correction": dict(),
    "NNCF, mixed preset": dict(preset="MIXED"),
    "NNCF, bias correction": dict(fast_bias_correction=False),
    "NNCF, for transformers": dict(model_type="TRANSFORMER"),
}

# As `default_config_per_channel.json` has it, activations u8, exported as its own function makes QDQ of it.
AIMET = {
    "AIMET": dict(),
    "AIMET, equalized": dict(equalize=True),
    "AIMET, sequential MSE": dict(sequential_mse=True),
    "AIMET, AdaRound": dict(adaround=True),
}


def aimet_reference(net, out, options):
    """Runs in a process of its own, with the Python that has aimet-onnx."""
    import aimet_onnx
    import onnx
    from aimet_onnx.batch_norm_fold import fold_all_batch_norms_to_weight
    from aimet_onnx.common.quantsim_config.utils import get_path_for_per_channel_config
    from aimet_onnx.cross_layer_equalization import equalize_model

    rows = inputs(net / "calibration")
    model = onnx.load(net / "model.onnx")
    fold_all_batch_norms_to_weight(model)
    if "equalize" in options:
        equalize_model(model)
    sim = aimet_onnx.QuantizationSimModel(
        model, param_type="int8", activation_type="int8", config_file=get_path_for_per_channel_config()
    )
    if "sequential_mse" in options:
        aimet_onnx.apply_seq_mse(sim, rows)
    if "adaround" in options:
        aimet_onnx.apply_adaround(sim, rows, num_iterations=1000)
    sim.compute_encodings(rows)
    onnx.save(sim.to_onnx_qdq(export_int32_bias=True, prequantize_constants=True), out)


def nncf_reference(net, out, options):
    """Runs in a process of its own, with the Python that has nncf."""
    import nncf
    import onnx

    rows = inputs(net / "calibration")
    for option, kind in (("preset", nncf.QuantizationPreset), ("model_type", nncf.ModelType)):
        if option in options:
            options[option] = getattr(kind, options[option])
    model = nncf.quantize(onnx.load(net / "model.onnx"), nncf.Dataset(rows), subset_size=len(rows), **options)
    onnx.save(model, out)


def reference(net, out, options):
    """Runs in a process of its own."""
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType
    from onnxruntime.quantization import quantize_dynamic, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as folder:
        prepared = os.path.join(folder, "prepared.onnx")
        quant_pre_process(str(net / "model.onnx"), prepared)
        if options.pop("dynamic", False):
            quantize_dynamic(prepared, out, weight_type=QuantType.QUInt8)
            return

        class Reader(CalibrationDataReader):
            def __init__(self):
                self.rows = iter(inputs(net / "calibration"))

            def get_next(self):
                return next(self.rows, None)

        method = getattr(CalibrationMethod, options.pop("calibrate_method", "MinMax"))
        quantize_static(
            prepared, out, Reader(), quant_format=QuantFormat.QDQ, calibrate_method=method,
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, **options,
        )


def inputs(folder):
    arrays = {file.stem: np.load(file) for file in sorted(folder.glob("*.npy")) if file.stem != "labels"}
    count = len(next(iter(arrays.values())))
    return [{name: array[i : i + 1] for name, array in arrays.items()} for i in range(count)]


def session(file):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.x64quantprecision", os.environ.get("X64QUANTPRECISION", "0"))
    return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])


def outputs(file, rows):
    run = session(file)
    return np.concatenate([run.run(None, row)[0] for row in rows])


def emulated(file, net, count):
    """The outputs of the first samples on the processor that EMULATOR plays."""
    with tempfile.TemporaryDirectory() as folder:
        out = os.path.join(folder, "outputs.npy")
        words = [*os.environ["EMULATOR"].split(), sys.executable, __file__, "--outputs", file, str(net), str(count), out]
        subprocess.run(words, check=True, capture_output=True)
        return np.load(out)


def decibels(signal, noise):
    return 10 * np.log10(signal / np.maximum(noise, 1e-300))


def lead(signal, noise, own):
    """The difference of two variants' SQNR and its standard error; arguments: one power per sample."""
    drawn = np.random.default_rng(0).integers(0, len(signal), (400, len(signal)))
    spread = decibels(1.0, noise[drawn].sum(1)) - decibels(1.0, own[drawn].sum(1))
    return decibels(1.0, noise.sum()) - decibels(1.0, own.sum()), spread.std()


def latencies(files, row, rounds=40):
    sessions = [session(file) for file in files]
    times = np.zeros((rounds + 3, len(files)))
    for turn in range(rounds + 3):
        for index, one in enumerate(sessions):
            started = time.perf_counter()
            one.run(None, row)
            times[turn, index] = time.perf_counter() - started
    return np.median(times[3:] / times[3:, :1], axis=0)


# A child's peak is never below what it was forked from, so a small process stands between.
WAIT = """
import json, os, subprocess, sys
child = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
_, status, usage = os.wait4(child.pid, 0)
print(json.dumps([status, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024]))
"""


def measured(command):
    ended = subprocess.run([sys.executable, "-S", "-c", WAIT, *command], capture_output=True, text=True, check=True)
    status, cpu, peak = json.loads(ended.stdout)
    if status != 0:
        raise SystemExit(f"{command} failed: {ended.stderr}")
    return cpu, peak


def variants_of(net, xtask, folder):
    """Every variant's file and what making it cost."""

    def run(name, words):
        file = os.path.join(folder, f"{len(variants)}.onnx")
        try:
            variants[name] = (file, measured([file if word is None else word for word in words]))
        except SystemExit as error:
            print(f"{net.name}, {name}: {str(error)[-600:]}", file=sys.stderr)

    variants = {"float": (str(net / "model.onnx"), (0.0, 0.0))}
    ours = [str(xtask), "quantize", "--offline", "--model", str(net / "model.onnx"), "--calibration"]
    ours += [str(net / "calibration"), "--allow-slower", "--output", None]
    run("ours", ours)
    run("ours, per tensor", [*ours, "--per-tensor"])
    tools = [("--reference", sys.executable, REFERENCES)]
    tools += [("--nncf", os.environ["NNCF_PYTHON"], NNCF)] if "NNCF_PYTHON" in os.environ else []
    tools += [("--aimet", os.environ["AIMET_PYTHON"], AIMET)] if "AIMET_PYTHON" in os.environ else []
    for flag, python, configurations in tools:
        wanted = re.compile(os.environ.get("VARIANTS", ""))
        for name, options in ((name, options) for name, options in configurations.items() if wanted.search(name)):
            run(name, [python, __file__, flag, str(net), None, json.dumps(options)])
    return variants


def powers(difference):
    return (difference.astype(np.float64) ** 2).reshape(len(difference), -1).sum(1)


def main():
    xtask, nets = pathlib.Path(sys.argv[1]).resolve(), pathlib.Path(sys.argv[2]).resolve()
    print("| net, variant | size KB | accuracy | agreement | SQNR dB | to ours | saturated | latency | CPU s | peak MB |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    wanted = sys.argv[3:]
    for net in sorted(folder for folder in nets.iterdir() if (folder / "model.onnx").exists()):
        if wanted and net.name not in wanted:
            continue
        rows, labels = inputs(net / "evaluation"), np.load(net / "evaluation" / "labels.npy")
        with tempfile.TemporaryDirectory() as folder:
            variants = variants_of(net, xtask, folder)
            ratios = latencies([file for file, _ in variants.values()], rows[0])
            expected = outputs(variants["float"][0], rows)
            signal = powers(expected)
            few = min(len(rows), 16 if "224" in net.name else 128)
            own = None
            for (name, (file, (cpu, peak))), ratio in zip(variants.items(), ratios):
                got = outputs(file, rows)
                noise = powers(got - expected)
                accuracy = (got.argmax(1) == labels).mean()
                agreement = (got.argmax(1) == expected.argmax(1)).mean()
                own = noise if name == "ours" else own
                sqnr, saturated, to_ours = "-", "-", "-"
                if name != "float":
                    sqnr = f"{decibels(signal.sum(), noise.sum()):.1f}"
                    to_ours = "{:+.1f} ± {:.1f}".format(*lead(signal, noise, own)) if name != "ours" else "-"
                    if "EMULATOR" in os.environ:
                        there = powers(emulated(file, net, few) - expected[:few])
                        saturated = f"{decibels(signal[:few].sum(), there.sum()):.1f}"
                size = os.path.getsize(file) / 1000
                print(
                    f"| {net.name}, {name} | {size:.0f} | {accuracy:.3f} | {agreement:.3f} | {sqnr} | {to_ours} "
                    f"| {saturated} | {ratio:.2f} | {cpu:.2f} | {peak:.0f} |",
                    flush=True,
                )


if __name__ == "__main__":
    if sys.argv[1] == "--reference":
        reference(pathlib.Path(sys.argv[2]), sys.argv[3], json.loads(sys.argv[4]))
    elif sys.argv[1] == "--nncf":
        nncf_reference(pathlib.Path(sys.argv[2]), sys.argv[3], json.loads(sys.argv[4]))
    elif sys.argv[1] == "--aimet":
        aimet_reference(pathlib.Path(sys.argv[2]), sys.argv[3], json.loads(sys.argv[4]))
    elif sys.argv[1] == "--outputs":
        np.save(sys.argv[5], outputs(sys.argv[2], inputs(pathlib.Path(sys.argv[3]) / "evaluation")[: int(sys.argv[4])]))
    else:
        main()
