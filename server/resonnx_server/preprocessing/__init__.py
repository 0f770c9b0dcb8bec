"""Picture files to pixels, on threads by priority, within a memory budget."""
