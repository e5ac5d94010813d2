"""The plan: every image known and countable before it is paid for."""
