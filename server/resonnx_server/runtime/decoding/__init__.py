"""Greedy search, beam search and sampling, from the log-probabilities of one search's rows."""
