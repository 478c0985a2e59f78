"""Files of a sweep: its folder, those of its trials, and the storage that all nodes reach."""
