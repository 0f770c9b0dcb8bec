"""Loads models on threads of their own: side by side, and alone while they measure."""
