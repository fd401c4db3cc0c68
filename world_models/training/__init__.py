"""Training a world from recorded experience."""
