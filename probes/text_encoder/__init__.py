"""The prompt as the text encoder sees it."""
