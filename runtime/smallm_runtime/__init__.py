"""A bundle behind gRPC, on ONNX Runtime. Imports neither torch nor transformers."""
