"""Files to pictures: what there is to read (discovery, tables) and how it is decoded (images)."""
