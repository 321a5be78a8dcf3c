"""What tests share: real servers, ledgers to work in, clients that show every byte."""
