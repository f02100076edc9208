"""The generated scenes: what there is to draw (shapes), where it goes (layout), and the drawing itself (draw)."""
