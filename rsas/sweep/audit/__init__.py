"""Compare the study, the files and MLflow of a sweep, and repair the differences."""
