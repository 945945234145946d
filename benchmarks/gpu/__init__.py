"""What can be proven and measured on a CUDA GPU, with TensorRT or without it: `python -m benchmarks gpu`."""
