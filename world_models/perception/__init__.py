"""Perception: frames to latents and back."""
