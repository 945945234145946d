"""The model: trained in torch or taken in as ONNX, to an FP32 bundle of one graph per stage."""
