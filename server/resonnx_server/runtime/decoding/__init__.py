"""Which token comes next: greedy, beam search and sampling, from one row's scores alone."""
