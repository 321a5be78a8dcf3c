"""What the project exists for: accounts, transfers, statements and the proof that they add up."""
