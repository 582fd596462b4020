"""CT layouts and readers."""
