"""X-ray layouts and readers."""
