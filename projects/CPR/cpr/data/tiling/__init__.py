"""Large images in overlapping tiles, and the way back."""
