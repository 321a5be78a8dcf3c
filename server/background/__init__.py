"""What is done without anybody asking: jobs, which only the leader of a database's background processes runs."""
