"""Notes on a patient: of an emergency department, of a published case, and passages that are looked up for one."""
