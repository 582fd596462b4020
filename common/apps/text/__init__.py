"""Reports and labels: sections, labels, scores, templates."""
