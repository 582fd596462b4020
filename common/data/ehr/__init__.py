"""What MIMIC-IV and MIMIC-IV-ED knew of a patient."""
