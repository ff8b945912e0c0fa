"""How a training program is written: a model and its objective as one ONNX graph with every gradient."""
