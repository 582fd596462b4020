"""The kinds of input of a multimodal study."""

MODALITIES = ("vision", "text", "clinical")
"""In the order of the columns of `present`, which say what a case has."""
