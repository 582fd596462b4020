"""The schema of `metadata.json`: MONAI's own, unchanged, from the assets of Project-MONAI/MONAI-extra-test-data.

Release 0.8.1, the file that the key `schema` of every metadata.json names; Apache-2.0, the licence of MONAI.
"""

import json
from pathlib import Path

import jsonschema

SCHEMA = Path(__file__).with_name("meta_schema_20240725.json")


def schema_errors(metadata: dict) -> list[str]:
    """What MONAI's schema says against a metadata.json, a sentence each; empty where it is valid."""
    schema = json.loads(SCHEMA.read_text())
    validator = jsonschema.validators.validator_for(schema)(schema)
    return [error.message for error in validator.iter_errors(metadata)]
