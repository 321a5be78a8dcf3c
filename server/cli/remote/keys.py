"""What `tallystick keys` asks a server for."""
