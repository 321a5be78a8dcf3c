"""What the service says of itself. Used by all, uses none of them."""
