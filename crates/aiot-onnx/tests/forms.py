"""Nets in the many forms that files come in: every opset from 9 on, each of which wrote some operators in another way,
half and double precision, open axes, constants among the inputs, subgraphs.

    python forms.py make FOLDER       writes NAME.onnx
    python forms.py compare FOLDER    NAME.onnx against NAME.prepared.onnx: prints JSON, by name the largest
                                      difference of an output, and the opset before and after
"""

import json
import pathlib
import sys

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto as T
from onnx import helper as h
from onnx import numpy_helper as nh

rng = np.random.default_rng(3)
TYPES = {np.float32: T.FLOAT, np.float16: T.FLOAT16, np.float64: T.DOUBLE}
NUMBERS = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64}


def weight(name, shape, kind=np.float32):
    return nh.from_array((rng.standard_normal(shape) * 0.3).astype(kind), name)


def integers(name, *values):
    return nh.from_array(np.array(values, np.int64), name)


def value(name, kind, shape):
    return h.make_tensor_value_info(name, kind, shape)


def model(nodes, inputs, outputs, constants, opset=17, ir=8):
    graph = h.make_graph(nodes, "net", inputs, outputs, constants)
    return h.make_model(graph, opset_imports=[h.make_opsetid("", opset)], ir_version=ir)


def image(opset, kind=np.float32, batch=1):
    """A small net for pictures, with all that changed its form between opsets."""
    nodes = [h.make_node("Conv", ["x", "w", "b"], ["c"], pads=[1, 1, 1, 1]), h.make_node("Relu", ["c"], ["r"])]
    constants = [weight("w", (8, 3, 3, 3), kind), weight("b", (8,), kind)]
    last = "r"

    def add(operator, inputs, output, **attributes):
        nonlocal last
        nodes.append(h.make_node(operator, [last, *inputs], [output], **attributes))
        last = output

    if opset < 11:
        add("Clip", [], "clipped", min=0.0, max=1.5)
    else:
        constants += [nh.from_array(np.array(0, kind), "low"), nh.from_array(np.array(1.5, kind), "high")]
        add("Clip", ["low", "high"], "clipped")
    if opset < 10:
        add("Slice", [], "slice", starts=[0, 0], ends=[7, 7], axes=[2, 3])
    else:
        constants += [integers("starts", 0, 0), integers("ends", 7, 7), integers("axes", 2, 3)]
        add("Slice", ["starts", "ends", "axes"], "slice")
    if opset < 11:
        add("Pad", [], "padded", pads=[0, 0, 0, 0, 0, 0, 1, 1], mode="constant", value=0.25)
    else:
        constants += [integers("pads", 0, 0, 0, 0, 0, 0, 1, 1), nh.from_array(np.array(0.25, kind), "fill")]
        add("Pad", ["pads", "fill"], "padded")
    add("Dropout", [], "dropped", **({"ratio": 0.5} if opset < 12 else {}))
    constants += [nh.from_array((1 + 0.1 * rng.standard_normal(8)).astype(kind), "gamma"), weight("beta", (8,), kind),
                  weight("mean", (8,), kind), nh.from_array(np.full(8, 0.9, kind), "variance")]
    add("BatchNormalization", ["gamma", "beta", "mean", "variance"], "normal")
    constants.append(nh.from_array(np.array([1, 1, 2, 2], np.float32), "scales"))
    if opset < 10:
        add("Upsample", ["scales"], "larger", mode="linear")
    elif opset < 11:
        add("Resize", ["scales"], "larger", mode="nearest")
    elif opset < 13:
        constants.append(nh.from_array(np.zeros(0, np.float32), "region"))
        add("Resize", ["region", "scales"], "larger", mode="linear")
    else:
        add("Resize", ["", "scales"], "larger", mode="linear")
    if opset < 13:
        nodes.append(h.make_node("Split", [last], ["left", "right"], axis=1, split=[3, 5]))
    else:
        constants.append(integers("parts", 3, 5))
        nodes.append(h.make_node("Split", [last, "parts"], ["left", "right"], axis=1))
    nodes.append(h.make_node("Concat", ["right", "left"], ["joined"], axis=1))
    last = "joined"
    if opset < 18:
        add("ReduceMean", [], "means", axes=[2, 3], keepdims=1)
    else:
        constants.append(integers("over", 2, 3))
        add("ReduceMean", ["over"], "means", keepdims=1)
    if opset < 13:
        add("Squeeze", [], "flat", axes=[2, 3])
    else:
        constants.append(integers("squeezed", 2, 3))
        add("Squeeze", ["squeezed"], "flat")
    constants += [weight("fw", (8, 5), kind), weight("fb", (5,), kind)]
    add("Gemm", ["fw", "fb"], "scores")
    add("Softmax", [], "y", axis=1)
    ir = {9: 4, 10: 5, 11: 6, 12: 7}.get(opset, 8 if opset < 19 else 9 if opset < 21 else 10)
    kind = TYPES[kind]
    return model(nodes, [value("x", kind, [batch, 3, 8, 8])], [value("y", kind, [batch, 5])], constants, opset, ir)


def double():
    """ONNX Runtime has no convolution in double precision."""
    nodes = [h.make_node("MatMul", ["x", "w"], ["a"]), h.make_node("Add", ["a", "b"], ["c"]),
             h.make_node("Dropout", ["c"], ["d"]), h.make_node("Gemm", ["d", "fw"], ["y"])]
    constants = [weight("w", (16, 8), np.float64), weight("b", (8,), np.float64), weight("fw", (8, 4), np.float64)]
    return model(nodes, [value("x", T.DOUBLE, [2, 16])], [value("y", T.DOUBLE, [2, 4])], constants)


def branches():
    def branch(kernel, name):
        return h.make_graph([h.make_node("Conv", ["c", kernel], [name])], name, [], [value(name, T.FLOAT, None)])

    nodes = [h.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
             h.make_node("ReduceSum", ["c"], ["sum"], keepdims=0), h.make_node("Greater", ["sum", "zero"], ["is"]),
             h.make_node("If", ["is"], ["i"], then_branch=branch("k1", "t"), else_branch=branch("k2", "e")),
             h.make_node("Flatten", ["i"], ["f"]), h.make_node("Gemm", ["f", "fw"], ["y"])]
    constants = [weight("w", (4, 3, 3, 3)), weight("k1", (2, 4, 3, 3)), weight("k2", (2, 4, 3, 3)),
                 nh.from_array(np.float32(0), "zero"), weight("fw", (72, 4))]
    return model(nodes, [value("x", T.FLOAT, [1, 3, 8, 8])], [value("y", T.FLOAT, [1, 4])], constants)


def loop():
    body = h.make_graph(
        [h.make_node("MatMul", ["s", "lw"], ["next"]), h.make_node("Identity", ["goes"], ["goes_on"])], "body",
        [value("i", T.INT64, []), value("goes", T.BOOL, []), value("s", T.FLOAT, [1, 8])],
        [value("goes_on", T.BOOL, []), value("next", T.FLOAT, [1, 8])])
    nodes = [h.make_node("MatMul", ["x", "w"], ["h"]), h.make_node("Loop", ["n", "", "h"], ["o"], body=body),
             h.make_node("MatMul", ["o", "w2"], ["y"])]
    constants = [weight("w", (16, 8)), weight("lw", (8, 8)), weight("w2", (8, 4)), nh.from_array(np.int64(3), "n")]
    return model(nodes, [value("x", T.FLOAT, [1, 16])], [value("y", T.FLOAT, [1, 4])], constants)


def scan():
    body = h.make_graph(
        [h.make_node("MatMul", ["e", "sw"], ["p"]), h.make_node("Add", ["p", "s"], ["next"]),
         h.make_node("Identity", ["next"], ["out"])], "body",
        [value("s", T.FLOAT, [1, 8]), value("e", T.FLOAT, [1, 8])],
        [value("next", T.FLOAT, [1, 8]), value("out", T.FLOAT, [1, 8])])
    nodes = [h.make_node("MatMul", ["x", "w"], ["h"]), h.make_node("Unsqueeze", ["h", "first"], ["steps"]),
             h.make_node("Scan", ["start", "steps"], ["end", "all"], body=body, num_scan_inputs=1),
             h.make_node("MatMul", ["end", "w2"], ["y"])]
    constants = [weight("w", (16, 8)), weight("sw", (8, 8)), weight("w2", (8, 4)),
                 nh.from_array(np.zeros((1, 8), np.float32), "start"), integers("first", 0)]
    return model(nodes, [value("x", T.FLOAT, [1, 16])], [value("y", T.FLOAT, [1, 4])], constants)


def recurrent():
    nodes = [h.make_node("GRU", ["x", "w", "r"], ["", "end"], hidden_size=12),
             h.make_node("Squeeze", ["end", "first"], ["s"]), h.make_node("MatMul", ["s", "fw"], ["y"])]
    constants = [weight("w", (1, 36, 6)), weight("r", (1, 36, 12)), integers("first", 0), weight("fw", (12, 4))]
    return model(nodes, [value("x", T.FLOAT, [10, 1, 6])], [value("y", T.FLOAT, [1, 4])], constants)


def all_forms():
    forms = {"opset-%02d" % opset: image(opset) for opset in range(9, 24)}
    forms["half"] = image(17, np.float16)
    forms["double"] = double()
    forms["open-batch"] = image(17, batch="N")
    forms["open-sides"] = image(17)
    sides = forms["open-sides"].graph.input[0].type.tensor_type.shape.dim
    sides[2].Clear()
    sides[3].dim_param = "W"
    # As IR 3 wants it: each constant is an input too.
    forms["constants-as-inputs"] = image(9)
    graph = forms["constants-as-inputs"].graph
    graph.input.extend(value(one.name, one.data_type, list(one.dims)) for one in graph.initializer)
    forms["constants-as-inputs"].ir_version = 3
    forms.update({"branches": branches(), "loop": loop(), "scan": scan(), "recurrent": recurrent()})
    return forms


def given(argument):
    lengths = [length if isinstance(length, int) else 8 if axis > 1 else 2 for axis, length in enumerate(argument.shape)]
    return np.random.default_rng(5).standard_normal(lengths).astype(NUMBERS[argument.type])


def compare(folder):
    found = {}
    for after in sorted(folder.glob("*.prepared.onnx")):
        name = after.name.removesuffix(".prepared.onnx")
        before = folder / (name + ".onnx")
        onnx.checker.check_model(onnx.load(after), full_check=True)
        opsets = [onnx.load(path).opset_import[0].version for path in (before, after)]
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        sessions = [onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
                    for path in (before, after)]
        inputs = {"x": given(sessions[1].get_inputs()[0])}
        one, two = (session.run(None, inputs)[0].astype(np.float64) for session in sessions)
        found[name] = {"difference": float(abs(one - two).max()), "largest": float(abs(one).max()), "opsets": opsets}
    print(json.dumps(found))


if __name__ == "__main__":
    place = pathlib.Path(sys.argv[2])
    if sys.argv[1] == "compare":
        compare(place)
    else:
        for form, net in all_forms().items():
            onnx.save(net, place / (form + ".onnx"))
