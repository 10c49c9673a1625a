"""Films that hospitals and platforms send: received, graded, and the results delivered (extra `serve`)."""
