"""Other people's files: what is in them, and stages made of them."""
