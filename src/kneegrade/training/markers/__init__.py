"""Training of the networks that read side markers: drawn letters, and `train_markers`, which learns from them."""
