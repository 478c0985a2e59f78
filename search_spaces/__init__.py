"""Search spaces: plain functions ``trial -> dict`` of TrainConfig fields."""
