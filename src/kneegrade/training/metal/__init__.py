"""Training of the detection of metal: `metal_shapes` drawn into real pictures, and `train_implants`."""
