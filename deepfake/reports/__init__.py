"""How results are shown: pages, charts, thumbnails, learning curves."""
