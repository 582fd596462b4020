"""From MIMIC-CXR and MIMIC-IV to the questions and answers of a vision-language model."""
