"""Speed and accuracy, measured. Run by hand and by `make benchmark`, never by the quick tests."""
