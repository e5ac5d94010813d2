"""Files as a run writes and reads them: atomic, locked, with checksums, never through a link."""
