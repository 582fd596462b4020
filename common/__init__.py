"""The library that the five chest-imaging bundles share."""
