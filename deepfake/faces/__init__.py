"""From frames to face crops: detection, geometry, and the one path that every job shares."""
