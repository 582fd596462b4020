"""Metrics of report text."""
