"""The feedback loop: from the worst labels and weakest stages to a next step that the split proves."""
