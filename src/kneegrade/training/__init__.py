"""Training: recipes, datasets, augmentation, losses, the training loop, and what is fitted to a trained network."""
