"""Which videos there are, for every kind of dataset."""
