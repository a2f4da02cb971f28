"""The shipped emoji cascade: its training recipe and its evaluation."""
