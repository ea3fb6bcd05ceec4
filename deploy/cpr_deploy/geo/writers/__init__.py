"""Files of finds: GeoJSON, KML, GPX, CSV, Cursor on Target, and a map as one HTML file."""
