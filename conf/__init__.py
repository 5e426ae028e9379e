"""Configuration: one typed schema, recipes and groups in YAML, and `key=value` on the command line."""
