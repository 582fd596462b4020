"""Image-quality and, later, report and classification metrics."""
