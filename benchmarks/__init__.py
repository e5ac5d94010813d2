"""Speed, measured side by side with what people use today: ratios, never absolute times."""
