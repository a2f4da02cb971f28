"""The emoji cascade: how one is trained on two CPU cores, and how the one in the package was measured."""
