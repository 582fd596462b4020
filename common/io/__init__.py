"""Bad input, output folders, tables, remote folders, work on several processes."""
