"""Loading captioners: the pair of encoder and decoder, and where the states of captions lie."""
