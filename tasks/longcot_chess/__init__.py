"""LongCoT chess: the shortest path of a knight over 30 squares, and the three best moves from a position."""
