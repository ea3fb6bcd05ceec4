"""Points of a stream become tracks, counts and alarms; numpy, scipy and OpenCV only."""
