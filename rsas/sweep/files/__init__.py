"""Files of a sweep: its folder, the folders of its trials, and the storage that all nodes reach."""
