"""Language models of Hugging Face: loaded, given tokens, decoded."""
