"""A zoo of randomly initialised networks and their ONNX exports."""
