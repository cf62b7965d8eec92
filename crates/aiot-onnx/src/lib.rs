//! ONNX graphs: read, check, prepare, quantize, write.
