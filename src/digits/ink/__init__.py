"""Finds ink in photographs: a small network, and the pages that the project draws to train it on."""
