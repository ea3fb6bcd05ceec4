"""Points on images, plots and report pages. Needs numpy, OpenCV and matplotlib, no torch."""
