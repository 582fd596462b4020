"""Data set layouts, splits, the frozen-feature cache, virtual patients."""
