"""What happened, told to everyone: the feed of events, and who is sent them."""
