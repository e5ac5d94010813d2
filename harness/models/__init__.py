"""Models as people have them: families, files, keys, adapters, VAEs."""
