"""Losses: tensors go in, one number that training makes small comes out."""
