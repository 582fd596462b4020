"""Networks: one file per network a paper would name."""
