"""Bundles and their recipes: run, resume, demo, evaluate, plan, prepare, jobs."""
