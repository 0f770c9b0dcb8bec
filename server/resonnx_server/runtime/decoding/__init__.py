"""Greedy search, beam search and sampling, from one row's log-probabilities alone."""
