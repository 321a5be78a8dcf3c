"""`make bench`: what Tallystick does on this machine, beside what others do on it, measured and written down."""
