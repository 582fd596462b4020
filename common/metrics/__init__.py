"""What is measured: images, labels, lesions, report text; with intervals and paired tests."""
