"""From model folders to a self-contained ONNX bundle: encoder graph, head graphs, int8, parity."""
