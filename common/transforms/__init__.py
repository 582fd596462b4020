"""Dictionary transforms and the geometry they share."""
