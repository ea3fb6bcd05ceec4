"""`make demo`: the whole path, from clicks to points on video, on real aerial images."""
