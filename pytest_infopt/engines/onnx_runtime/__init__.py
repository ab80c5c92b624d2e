"""ONNX files in ONNX Runtime, in process."""
