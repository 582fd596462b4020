"""Self-contained copies of bundles, and what is wrong or dangerous in one."""
