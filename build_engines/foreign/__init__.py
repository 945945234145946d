"""ONNX graphs that somebody else made, brought into the form that the rest of the build takes.

`read` loads a file with all that belongs to it, `trim` keeps what leads to the outputs that are wanted, `opset` and
`operators` bring the operators to what the targets read, `inputs` says what each input is fed and puts the device's
conversions in front, `form` does all of it in order, and `proof` compares the result with the file as it came.
"""
