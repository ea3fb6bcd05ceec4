"""A page that shows what the streams see: picture, counts over time, health."""
