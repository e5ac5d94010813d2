"""What a report is written as: a module a format, found by its name."""
