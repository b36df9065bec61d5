"""Bytes made to break the readers: targets, seeds, and what drives them."""
