"""How a repository's models change while the server runs: what its folders show, and what follows for each version."""
