"""MONAI trainers and evaluators for staged training."""
