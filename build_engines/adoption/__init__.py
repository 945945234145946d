"""Taking in ONNX graphs that somebody else trained.

`read` loads a file with all that belongs to it, `trim` keeps what leads to the outputs that are wanted, `shapes` fixes
every dimension, `opset` brings the operators to what the targets read, `inputs` puts the device's conversions in
front, `outputs` makes logits of what comes out, `proof` compares the result with the file as it came; `adopt` makes a
bundle of it, and `inspect` says what a file is and proposes a recipe.
"""
