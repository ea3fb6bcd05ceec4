"""Points on images with depth to places that a robot can reach. PICKING.md tells how to use it."""
