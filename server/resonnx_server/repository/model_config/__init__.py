"""The settings of one model, from the files that lie beside it and the server's own."""
