"""A model as a graph in the format of ONNX: how it is made, made smaller, and run in the model's place."""
