"""The `shell` task type."""
