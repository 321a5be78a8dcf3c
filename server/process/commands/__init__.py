"""What the commands do that run the service or work on its database."""
