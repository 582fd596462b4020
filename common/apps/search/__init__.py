"""Search of the values that train best."""
