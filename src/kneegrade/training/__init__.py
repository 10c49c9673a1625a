"""Training: stores, augmentation, losses, recipes and the loop."""
