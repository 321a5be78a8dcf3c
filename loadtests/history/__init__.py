"""What clients sent and heard, written down as it happens, and checks of what no history may show."""
