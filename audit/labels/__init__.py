"""People's labels: which to ask for, how they agree, and shares from them."""
