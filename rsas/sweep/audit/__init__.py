"""Whether study, files and MLflow agree, and how they are mended."""
