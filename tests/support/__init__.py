"""Helpers that tests share: real servers, ledgers to work in, and clients that show every byte."""
