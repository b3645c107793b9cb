"""Files to frames: what there is to read (discovery) and how it is decoded (decoding)."""
