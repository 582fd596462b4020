"""What a kind of bundle measures: slice interpolation, classification, comparison of models, errors."""
