"""Positions on the Earth: from points in a drone's pictures to latitude and longitude."""
