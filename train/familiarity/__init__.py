"""Give a model's ONNX file an output that says how familiar an image is."""
