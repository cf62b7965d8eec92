"""Our quantizer and onnxruntime.quantization on the same nets and samples, in one run.

    python compare.py XTASK NETS [NET…]   # XTASK: the built command line; NETS: what make_models.py wrote
                                          # needs onnx, onnxruntime, numpy, sympy; run inside the workspace
    NNCF_PYTHON=… python compare.py …     # a Python with nncf, which is compared too

Quality is measured on the evaluation samples: accuracy, share of equal answers and signal to noise of the outputs
against float. Latency: batch 1, one thread, all variants in turns, median of ratios to float. Cost: CPU seconds and
peak memory of a fresh process that makes the file (ours searches, compares and measures too).
"""

import json
import os
import pathlib
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


def main():
    xtask, nets = pathlib.Path(sys.argv[1]).resolve(), pathlib.Path(sys.argv[2]).resolve()
    print("| net, variant | size KB | accuracy | agreement | SQNR dB | latency | CPU s | peak MB |")
    print("|---|---|---|---|---|---|---|---|")
    wanted = sys.argv[3:]
    for net in sorted(folder for folder in nets.iterdir() if (folder / "model.onnx").exists()):
        if wanted and net.name not in wanted:
            continue
        rows, labels = inputs(net / "evaluation"), np.load(net / "evaluation" / "labels.npy")
        with tempfile.TemporaryDirectory() as folder:
            variants = {"float": (str(net / "model.onnx"), (0.0, 0.0))}
            for name, extra in (("ours", []), ("ours, per tensor", ["--per-tensor"])):
                file = os.path.join(folder, f"{len(variants)}.onnx")
                command = [str(xtask), "quantize", "--offline", "--model", str(net / "model.onnx"), "--calibration"]
                command += [str(net / "calibration"), "--output", file, "--allow-slower", *extra]
                variants[name] = (file, measured(command))
            for name, options in REFERENCES.items():
                file = os.path.join(folder, f"{len(variants)}.onnx")
                cost = measured([sys.executable, __file__, "--reference", str(net), file, json.dumps(options)])
                variants[name] = (file, cost)
            for name, options in NNCF.items() if "NNCF_PYTHON" in os.environ else ():
                file = os.path.join(folder, f"{len(variants)}.onnx")
                words = [os.environ["NNCF_PYTHON"], __file__, "--nncf", str(net), file, json.dumps(options)]
                try:
                    variants[name] = (file, measured(words))
                except SystemExit as error:
                    print(f"{net.name}, {name}: {str(error)[-300:]}", file=sys.stderr)
            ratios = latencies([file for file, _ in variants.values()], rows[0])
            float_outputs = outputs(variants["float"][0], rows)
            for (name, (file, (cpu, peak))), ratio in zip(variants.items(), ratios):
                got = outputs(file, rows)
                noise = float(((got - float_outputs).astype(np.float64) ** 2).sum())
                signal = float((float_outputs.astype(np.float64) ** 2).sum())
                sqnr = f"{10 * np.log10(signal / noise):.1f}" if noise else "-"
                accuracy = (got.argmax(1) == labels).mean()
                agreement = (got.argmax(1) == float_outputs.argmax(1)).mean()
                size = os.path.getsize(file) / 1000
                print(
                    f"| {net.name}, {name} | {size:.0f} | {accuracy:.3f} | {agreement:.3f} | {sqnr} | {ratio:.2f} "
                    f"| {cpu:.2f} | {peak:.0f} |",
                    flush=True,
                )


if __name__ == "__main__":
    if sys.argv[1] == "--reference":
        reference(pathlib.Path(sys.argv[2]), sys.argv[3], json.loads(sys.argv[4]))
    elif sys.argv[1] == "--nncf":
        nncf_reference(pathlib.Path(sys.argv[2]), sys.argv[3], json.loads(sys.argv[4]))
    else:
        main()
