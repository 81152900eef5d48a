"""Examines an installation and runs every kernel: `command` is what a person calls, `diagnosis` what it finds."""
