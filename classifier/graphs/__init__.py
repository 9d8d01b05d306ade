"""Bases from ONNX and OpenVINO files, which OpenVINO runs without TensorFlow."""
