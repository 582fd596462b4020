"""Inference procedures: chunked VAE, diffusion samplers, report decoding."""
