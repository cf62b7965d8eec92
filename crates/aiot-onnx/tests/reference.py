"""Checks every .onnx file of a folder with the reference implementations.

    python reference.py FOLDER

onnx.checker reads each file in full, with shape inference; ONNX Runtime optimizes and runs it on one seeded input.
Prints JSON: its version, and by file name the optimized graph's operators, the float outputs, and of each output, by
name, the least and the largest number.
"""

import collections
import json
import pathlib
import sys
import tempfile

import numpy
import onnx
import onnxruntime


FLOATS = {"tensor(float)": numpy.float32, "tensor(float16)": numpy.float16, "tensor(double)": numpy.float64}


def given(argument):
    # A length that only a name stands for is 2.
    shape = [length if isinstance(length, int) else 2 for length in argument.shape]
    count = int(numpy.prod(shape))
    if "int64" in argument.type:
        return (numpy.arange(count) * 7 % 11).astype(numpy.int64).reshape(shape)
    if "bool" in argument.type:
        return numpy.ones(shape, dtype=bool)
    return numpy.sin(numpy.arange(count) * 0.7).astype(FLOATS[argument.type]).reshape(shape)


def look(path, beside):
    model = onnx.load(path)
    # What calibration runs shows tensors of which no shape is known.
    if not path.name.endswith(".shown.onnx"):
        onnx.checker.check_model(model, full_check=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    optimized = beside / path.name
    options.optimized_model_filepath = str(optimized)
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    outputs = session.run(None, {argument.name: given(argument) for argument in session.get_inputs()})
    nodes = collections.Counter(node.op_type for node in onnx.load(optimized).graph.node)
    return {
        "operators": dict(sorted(nodes.items())),
        "ranges": {
            argument.name: [float(output.min()), float(output.max())]
            for argument, output in zip(session.get_outputs(), outputs)
            if output.size
        },
        "outputs": [float(number) for output in outputs for number in output.ravel()],
    }


def main():
    with tempfile.TemporaryDirectory() as beside:
        files = sorted(pathlib.Path(sys.argv[1]).glob("*.onnx"))
        found = {}
        for path in files:
            try:
                found[path.name] = look(path, pathlib.Path(beside))
            except Exception as error:
                error.add_note(path.name)
                raise
    print(json.dumps({"version": onnxruntime.__version__, "files": found}))


main()
