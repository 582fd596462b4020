"""Datasets of torch, samplers, caches."""
