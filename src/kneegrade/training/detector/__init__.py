"""Training of the landmark detector: its recipe, its images, its losses, and `train_detector`."""
