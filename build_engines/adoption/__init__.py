"""Own models: `adopt` makes a bundle of graphs that somebody else trained, brought into form by `foreign`;
`outputs` makes logits of what comes out and `detection` boxes and scores; `inspect` says what a file is and proposes a
recipe.
"""
