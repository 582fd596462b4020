"""Ignite handlers: progress, pictures, run history."""
